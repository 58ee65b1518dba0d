//! The product of a tile with one scale for each group.

use core::marker::PhantomData;

use super::{
    codes::{Codes, Width},
    kernel::{Form, Sums},
    layout::{Chunk, Form as FormKind, Layout, MOST_GROUPS, ScaleKind, TILE_ROWS},
    line::{Line, bytes_at},
    panel::Tokens,
    simd::IntSimd,
};
use crate::simd::Simd;

/// A scale, and what `O` says, for each group.
pub(crate) struct Flat<O>(PhantomData<fn() -> O>);

/// What groups have besides a scale.
pub(crate) trait Offset: Sync + 'static {
    /// Bytes that a group takes for each row.
    const BYTES: usize;
    /// The parameters of sixteen rows.
    type Params<S: IntSimd>: Copy;
    /// Parameters that are not used.
    fn none<S: IntSimd>(simd: S) -> Self::Params<S>;
    /// Reads those that begin at a byte of a header.
    fn read<S: IntSimd, C: Width>(simd: S, header: &[Line], at: usize) -> Self::Params<S>;
    /// What the sum of products begins with, given the start that was made from the activations.
    fn begin<S: IntSimd>(simd: S, params: Self::Params<S>, start: i32) -> S::Ints;
    /// What is added to the scaled sum.
    fn add<S: IntSimd>(
        simd: S,
        params: Self::Params<S>,
        start: i32,
        product: S::Floats,
    ) -> S::Floats;
}

/// Nothing: the centre of the codes is in the starts.
pub(crate) struct Centre;

impl Offset for Centre {
    const BYTES: usize = 0;
    type Params<S: IntSimd> = ();

    #[inline(always)]
    fn none<S: IntSimd>(_: S) {}
    #[inline(always)]
    fn read<S: IntSimd, C: Width>(_: S, _: &[Line], _: usize) {}
    #[inline(always)]
    fn begin<S: IntSimd>(simd: S, (): (), start: i32) -> S::Ints {
        simd.splat_int(start)
    }
    #[inline(always)]
    fn add<S: IntSimd>(_: S, (): (), _: i32, product: S::Floats) -> S::Floats {
        product
    }
}

/// Zero points, less the bias of the codes that the level multiplies. Starts are sums with a minus.
pub(crate) struct ZeroPoint;

impl Offset for ZeroPoint {
    const BYTES: usize = 1;
    type Params<S: IntSimd> = S::Ints;

    #[inline(always)]
    fn none<S: IntSimd>(simd: S) -> S::Ints {
        simd.splat_int(0)
    }
    #[inline(always)]
    fn read<S: IntSimd, C: Width>(simd: S, header: &[Line], at: usize) -> S::Ints {
        let bias = if S::SIGNED && C::BITS == 8 { -128 } else { 0 };
        simd.add_ints(simd.load_u8(bytes_at(header, at)), simd.splat_int(bias))
    }
    #[inline(always)]
    fn begin<S: IntSimd>(simd: S, zero_points: S::Ints, start: i32) -> S::Ints {
        simd.mul_ints(zero_points, simd.splat_int(start))
    }
    #[inline(always)]
    fn add<S: IntSimd>(_: S, _: S::Ints, _: i32, product: S::Floats) -> S::Floats {
        product
    }
}

/// Minima. Starts are the bits of floats.
pub(crate) struct Minimum;

impl Offset for Minimum {
    const BYTES: usize = 2;
    type Params<S: IntSimd> = S::Floats;

    #[inline(always)]
    fn none<S: IntSimd>(simd: S) -> S::Floats {
        simd.splat(0.0)
    }
    #[inline(always)]
    fn read<S: IntSimd, C: Width>(simd: S, header: &[Line], at: usize) -> S::Floats {
        simd.halves(bytes_at(header, at))
    }
    #[inline(always)]
    fn begin<S: IntSimd>(simd: S, _: S::Floats, _: i32) -> S::Ints {
        simd.splat_int(0)
    }
    #[inline(always)]
    fn add<S: IntSimd>(simd: S, minima: S::Floats, start: i32, product: S::Floats) -> S::Floats {
        simd.mul_add(minima, simd.splat(f32::from_bits(start as u32)), product)
    }
}

impl<O: Offset> Form for Flat<O> {
    #[inline(always)]
    fn tile<S: IntSimd, C: Codes, const T: usize>(
        simd: S,
        layout: &Layout,
        tile: &[Line],
        x: Tokens<'_, T>,
        total: [S::Floats; T],
    ) -> [S::Floats; T] {
        // With few tokens, what has to be done for every group is felt where groups are short.
        if T <= 2 && layout.act_blocks == 1 {
            product::<S, C, O, T, 1>(simd, layout, tile, x, total)
        } else {
            product::<S, C, O, T, 0>(simd, layout, tile, x, total)
        }
    }
}

/// The product, with `ACT` blocks in an activation block, or any number if that is 0.
#[inline(always)]
fn product<S: IntSimd, C: Codes, O: Offset, const T: usize, const ACT: usize>(
    simd: S,
    layout: &Layout,
    tile: &[Line],
    x: Tokens<'_, T>,
    mut total: [S::Floats; T],
) -> [S::Floats; T] {
    let FormKind::Flat { scale, .. } = layout.form else {
        unreachable!("the form was chosen by the layout")
    };
    let act_blocks = if ACT == 0 { layout.act_blocks } else { ACT };
    let acts_per_group = layout.group_blocks / act_blocks;
    let mut acts = x.blocks.chunks_exact(act_blocks).zip(x.scales).zip(x.starts);

    // Those of a chunk.
    let mut scales = [simd.splat(0.0); MOST_GROUPS];
    let mut offsets = [O::none(simd); MOST_GROUPS];
    for chunk in layout.chunks(tile) {
        let n_groups = chunk.n_blocks.div_ceil(layout.group_blocks).min(MOST_GROUPS);
        read_scales(simd, chunk, scale, &mut scales[..n_groups]);
        for (group, offset) in offsets[..n_groups].iter_mut().enumerate() {
            let at = (n_groups * scale.bytes() + group * O::BYTES) * TILE_ROWS;
            *offset = O::read::<S, C>(simd, chunk.header, at);
        }
        let (mut group, mut left) = (0, acts_per_group);
        let codes = chunk.codes.chunks_exact(act_blocks * C::LINES);
        for (codes, ((x, x_scales), starts)) in codes.zip(&mut acts) {
            let mut sums = Sums::<S, T>::zero(simd);
            for t in 0..T {
                sums.begin(simd, t, O::begin(simd, offsets[group], starts[t]));
            }
            for (x, codes) in x.iter().zip(codes.chunks_exact(C::LINES)) {
                sums.add_block::<C>(simd, codes, x);
            }
            for t in 0..T {
                let product = simd.mul(sums.end(simd, t), scales[group]);
                let product = O::add(simd, offsets[group], starts[t], product);
                total[t] = simd.mul_add(product, simd.splat(x_scales[t]), total[t]);
            }
            left -= 1;
            if left == 0 {
                (group, left) = ((group + 1) % MOST_GROUPS, acts_per_group);
            }
        }
    }
    total
}

/// The scales of a chunk's groups.
#[inline(always)]
fn read_scales<S: IntSimd>(
    simd: S,
    chunk: Chunk<'_>,
    kind: ScaleKind,
    scales: &mut [<S as Simd>::Floats],
) {
    for (i, scale) in scales.iter_mut().enumerate() {
        let at = i * kind.bytes() * TILE_ROWS;
        *scale = match kind {
            ScaleKind::F16 => simd.halves(bytes_at(chunk.header, at)),
            ScaleKind::BF16 => simd.brain_halves(bytes_at(chunk.header, at)),
            ScaleKind::F32 => simd.singles(bytes_at(chunk.header, at)),
            ScaleKind::HalfE8m0 => {
                simd.mul(simd.powers_of_two(bytes_at(chunk.header, at)), simd.splat(0.5))
            }
        };
    }
}
