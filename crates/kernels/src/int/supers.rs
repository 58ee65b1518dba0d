//! The product of a tile of super-blocks, whose parts have integer scales.

use super::{
    codes::Codes,
    kernel::{Form, Sums},
    layout::{Layout, SUPER_BLOCKS, TILE_ROWS},
    line::{Line, bytes_at},
    panel::Tokens,
    simd::IntSimd,
};
use crate::simd::Simd;

/// The scale of a part, and what is added for each unit of the sum of its activations.
type Params<S> = (<S as Simd>::Floats, Option<<S as Simd>::Floats>);

/// How the parts of a super-block store their scales.
pub(crate) trait Parts: Sync + 'static {
    /// Whether parts are of 16 columns.
    const HALVES: bool;
    /// Bytes that a part has for each row.
    const BYTES: usize = 1;
    /// The parameters of a part, from d, dmin and the lines that follow these. Without a minimum, the centre is in the starts.
    fn params<S: IntSimd>(
        simd: S,
        d: S::Floats,
        dmin: S::Floats,
        lines: &[Line],
        part: usize,
    ) -> Params<S>;
}

/// Signed scales; parts of 16 columns or 32.
pub(crate) struct Signed<const HALVES: bool>;

impl<const HALVES: bool> Parts for Signed<HALVES> {
    const HALVES: bool = HALVES;

    #[inline(always)]
    fn params<S: IntSimd>(
        simd: S,
        d: S::Floats,
        _: S::Floats,
        lines: &[Line],
        part: usize,
    ) -> Params<S> {
        let scale = simd.load_i8(bytes_at(lines, part * TILE_ROWS));
        (simd.mul(d, simd.to_floats(scale)), None)
    }
}

/// Unsigned scales and minima of parts of 32 columns.
pub(crate) struct Minima;

impl Parts for Minima {
    const HALVES: bool = false;
    const BYTES: usize = 2;

    #[inline(always)]
    fn params<S: IntSimd>(
        simd: S,
        d: S::Floats,
        dmin: S::Floats,
        lines: &[Line],
        part: usize,
    ) -> Params<S> {
        let scale = simd.load_u8(bytes_at(lines, part * TILE_ROWS));
        let minimum = simd.load_u8(bytes_at(lines, (SUPER_BLOCKS + part) * TILE_ROWS));
        signed_params(simd, d, dmin, scale, minimum)
    }
}

/// Scales and minima of parts of 16 columns, as nibbles of a byte.
pub(crate) struct Nibbles;

impl Parts for Nibbles {
    const HALVES: bool = true;

    #[inline(always)]
    fn params<S: IntSimd>(
        simd: S,
        d: S::Floats,
        dmin: S::Floats,
        lines: &[Line],
        part: usize,
    ) -> Params<S> {
        let [scale, minimum] = simd.load_nibbles(bytes_at(lines, part * TILE_ROWS));
        signed_params(simd, d, dmin, scale, minimum)
    }
}

/// `d · scale` and `−dmin · minimum`.
#[inline(always)]
fn signed_params<S: IntSimd>(
    simd: S,
    d: S::Floats,
    dmin: S::Floats,
    scale: S::Ints,
    minimum: S::Ints,
) -> Params<S> {
    let minus = simd.sub(simd.splat(0.0), dmin);
    (simd.mul(d, simd.to_floats(scale)), Some(simd.mul(minus, simd.to_floats(minimum))))
}

/// Super-blocks with such parts.
pub(crate) struct Super<P>(core::marker::PhantomData<fn() -> P>);

impl<P: Parts> Form for Super<P> {
    #[inline(always)]
    fn tile<S: IntSimd, C: Codes, const T: usize>(
        simd: S,
        layout: &Layout,
        tile: &[Line],
        x: Tokens<'_, T>,
        mut total: [S::Floats; T],
    ) -> [S::Floats; T] {
        let parts = if P::HALVES { 2 * SUPER_BLOCKS } else { SUPER_BLOCKS };
        let acts = x.blocks.as_chunks::<SUPER_BLOCKS>().0.iter().zip(x.scales);
        let acts = acts.zip(x.starts.chunks_exact(parts));
        for (chunk, ((x, scales), starts)) in layout.chunks(tile).zip(acts) {
            let (main, lines) = chunk.header.split_at(1);
            let d = simd.halves(bytes_at(main, 0));
            let dmin = simd.halves(bytes_at(main, 2 * TILE_ROWS));
            let lines = &lines[..parts * P::BYTES * TILE_ROWS / Line::BYTES];
            let mut products = [simd.splat(0.0); T];
            let blocks = x.iter().zip(chunk.codes.chunks_exact(C::LINES));
            for (block, (x, codes)) in blocks.enumerate() {
                if P::HALVES {
                    // Written out, so that the compiler knows each step.
                    macro_rules! half {
                        ($half:literal) => {
                            let part = 2 * block + $half;
                            let params = P::params(simd, d, dmin, lines, part);
                            let mut sums = begin::<S, T>(simd, params, &starts[part]);
                            sums.add_half::<C>(simd, codes, x, $half);
                            add_part::<S, T>(simd, &mut products, &sums, params, &starts[part]);
                        };
                    }
                    half!(0);
                    half!(1);
                } else {
                    let params = P::params(simd, d, dmin, lines, block);
                    let mut sums = begin::<S, T>(simd, params, &starts[block]);
                    sums.add_block::<C>(simd, codes, x);
                    add_part::<S, T>(simd, &mut products, &sums, params, &starts[block]);
                }
            }
            for t in 0..T {
                total[t] = simd.mul_add(products[t], simd.splat(scales[t]), total[t]);
            }
        }
        total
    }
}

/// Sums that begin with their starts, unless there is a minimum.
#[inline(always)]
fn begin<S: IntSimd, const T: usize>(simd: S, params: Params<S>, starts: &[i32; T]) -> Sums<S, T> {
    let mut sums = Sums::zero(simd);
    if params.1.is_none() {
        for t in 0..T {
            sums.begin(simd, t, simd.splat_int(starts[t]));
        }
    }
    sums
}

/// Adds the sums of a part to those of its super-block.
#[inline(always)]
fn add_part<S: IntSimd, const T: usize>(
    simd: S,
    products: &mut [S::Floats; T],
    sums: &Sums<S, T>,
    (scale, minimum): Params<S>,
    starts: &[i32; T],
) {
    for t in 0..T {
        products[t] = simd.mul_add(sums.end(simd, t), scale, products[t]);
    }
    if let Some(minimum) = minimum {
        for t in 0..T {
            let sum = simd.splat(f32::from_bits(starts[t] as u32));
            products[t] = simd.mul_add(minimum, sum, products[t]);
        }
    }
}
