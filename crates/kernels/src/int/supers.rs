//! The product of a tile of super-blocks, whose parts have integer scales.

use super::{
    codes::Codes,
    kernel::{Form, block_dot, half_dot},
    layout::{Chunk, Layout, SUPER_BLOCKS, TILE_ROWS},
    line::{Line, bytes_at},
    panel::Tokens,
    simd::IntSimd,
};

/// The scale of a part, and what is added for each unit of the sum of its activations.
type Params<S> = (<S as crate::simd::Simd>::Floats, Option<<S as crate::simd::Simd>::Floats>);

/// How the parts of a super-block store their scales.
pub(crate) trait Parts: Sync + 'static {
    /// Whether parts are of 16 columns.
    const HALVES: bool;
    /// The parameters of a part; without a minimum, the centre is in the starts.
    fn params<S: IntSimd>(simd: S, chunk: Chunk<'_>, part: usize) -> Params<S>;
}

/// Bytes of d and dmin at the start of a header.
const MAIN: usize = 4;

#[inline(always)]
fn main_scale<S: IntSimd>(simd: S, chunk: Chunk<'_>) -> S::Floats {
    simd.halves(bytes_at(chunk.header, 0))
}

/// −dmin.
#[inline(always)]
fn main_minimum<S: IntSimd>(simd: S, chunk: Chunk<'_>) -> S::Floats {
    simd.sub(simd.splat(0.0), simd.halves(bytes_at(chunk.header, 2 * TILE_ROWS)))
}

/// Signed scales; parts of 16 columns or 32.
pub(crate) struct Signed<const HALVES: bool>;

impl<const HALVES: bool> Parts for Signed<HALVES> {
    const HALVES: bool = HALVES;

    #[inline(always)]
    fn params<S: IntSimd>(simd: S, chunk: Chunk<'_>, part: usize) -> Params<S> {
        let scale = simd.load_i8(bytes_at(chunk.header, (MAIN + part) * TILE_ROWS));
        (simd.mul(main_scale(simd, chunk), simd.to_floats(scale)), None)
    }
}

/// Unsigned scales and minima of parts of 32 columns.
pub(crate) struct Minima;

impl Parts for Minima {
    const HALVES: bool = false;

    #[inline(always)]
    fn params<S: IntSimd>(simd: S, chunk: Chunk<'_>, part: usize) -> Params<S> {
        let bytes = |part| bytes_at(chunk.header, (MAIN + part) * TILE_ROWS);
        let scale = simd.to_floats(simd.load_u8(bytes(part)));
        let minimum = simd.to_floats(simd.load_u8(bytes(SUPER_BLOCKS + part)));
        let scale = simd.mul(main_scale(simd, chunk), scale);
        (scale, Some(simd.mul(main_minimum(simd, chunk), minimum)))
    }
}

/// Scales and minima of parts of 16 columns, as nibbles of a byte.
pub(crate) struct Nibbles;

impl Parts for Nibbles {
    const HALVES: bool = true;

    #[inline(always)]
    fn params<S: IntSimd>(simd: S, chunk: Chunk<'_>, part: usize) -> Params<S> {
        let [scale, minimum] = simd.load_nibbles(bytes_at(chunk.header, (MAIN + part) * TILE_ROWS));
        let scale = simd.mul(main_scale(simd, chunk), simd.to_floats(scale));
        (scale, Some(simd.mul(main_minimum(simd, chunk), simd.to_floats(minimum))))
    }
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
        ahead: usize,
    ) -> [S::Floats; T] {
        let mut total = [simd.splat(0.0); T];
        let parts = if P::HALVES { 2 * SUPER_BLOCKS } else { SUPER_BLOCKS };
        let acts = x.blocks.as_chunks::<SUPER_BLOCKS>().0.iter().zip(x.scales);
        let acts = acts.zip(x.starts.chunks_exact(parts));
        for (chunk, ((x, scales), starts)) in layout.chunks(tile).zip(acts) {
            let mut products = [simd.splat(0.0); T];
            let blocks = x.iter().zip(chunk.codes.chunks_exact(C::LINES));
            for (block, (x, codes)) in blocks.enumerate() {
                if P::HALVES {
                    // Written out, so that the compiler knows each step.
                    macro_rules! half {
                        ($half:literal) => {
                            let part = 2 * block + $half;
                            let params = P::params(simd, chunk, part);
                            let mut sums = begin::<S, T>(simd, params, &starts[part]);
                            half_dot::<S, C, T>(simd, &mut sums, codes, x, $half, ahead);
                            add_part::<S, T>(simd, &mut products, sums, params, &starts[part]);
                        };
                    }
                    half!(0);
                    half!(1);
                } else {
                    let params = P::params(simd, chunk, block);
                    let mut sums = begin::<S, T>(simd, params, &starts[block]);
                    block_dot::<S, C, T>(simd, &mut sums, codes, x, ahead);
                    add_part::<S, T>(simd, &mut products, sums, params, &starts[block]);
                }
            }
            for t in 0..T {
                total[t] = simd.mul_add(products[t], simd.splat(scales[t]), total[t]);
            }
        }
        total
    }
}

#[inline(always)]
fn begin<S: IntSimd, const T: usize>(
    simd: S,
    params: Params<S>,
    starts: &[i32; T],
) -> [S::Sums; T] {
    let mut sums = [simd.begin(simd.splat_int(0)); T];
    if params.1.is_none() {
        for t in 0..T {
            sums[t] = simd.begin(simd.splat_int(starts[t]));
        }
    }
    sums
}

#[inline(always)]
fn add_part<S: IntSimd, const T: usize>(
    simd: S,
    products: &mut [S::Floats; T],
    sums: [S::Sums; T],
    (scale, minimum): Params<S>,
    starts: &[i32; T],
) {
    for t in 0..T {
        products[t] = simd.mul_add(simd.to_floats(simd.end(sums[t])), scale, products[t]);
    }
    if let Some(minimum) = minimum {
        for t in 0..T {
            let sum = simd.to_floats(simd.splat_int(starts[t]));
            products[t] = simd.mul_add(minimum, sum, products[t]);
        }
    }
}
