//! The product of a tile with one scale for each group.

use super::{
    codes::Codes,
    kernel::{Form, block_dot},
    layout::{Chunk, Form as FormKind, Layout, Offset, ScaleKind, TILE_ROWS},
    line::{Line, bytes_at},
    panel::Tokens,
    simd::IntSimd,
};

/// A scale, and perhaps a zero point or minimum, for each group.
pub(crate) struct Flat;

impl Form for Flat {
    #[inline(always)]
    fn tile<S: IntSimd, C: Codes, const T: usize>(
        simd: S,
        layout: &Layout,
        tile: &[Line],
        x: Tokens<'_, T>,
        ahead: usize,
    ) -> [S::Floats; T] {
        let FormKind::Flat { scale: scale_kind, offset } = layout.form else {
            unreachable!("the form was chosen by the layout")
        };
        let act_blocks = layout.act_blocks;
        let acts_per_group = layout.group_blocks / act_blocks;
        let mut acts = x.blocks.chunks_exact(act_blocks).zip(x.scales).zip(x.starts);

        let mut total = [simd.splat(0.0); T];
        for chunk in layout.chunks(tile) {
            let codes = chunk.codes.chunks_exact(act_blocks * C::LINES);
            let (mut group, mut left) = (0, acts_per_group);
            for (codes, ((x, scales), starts)) in codes.zip(&mut acts) {
                let mut sums = [simd.begin(simd.splat_int(0)); T];
                match offset {
                    Offset::Centre(_) => {
                        for t in 0..T {
                            sums[t] = simd.begin(simd.splat_int(starts[t]));
                        }
                    }
                    Offset::ZeroPoint => {
                        let zero_point = zero_points::<S, C>(simd, chunk, scale_kind, group);
                        for t in 0..T {
                            let start = simd.splat_int(starts[t]);
                            sums[t] = simd.begin(simd.mul_ints(zero_point, start));
                        }
                    }
                    Offset::Minimum => {}
                }
                for (x, codes) in x.iter().zip(codes.chunks_exact(C::LINES)) {
                    block_dot::<S, C, T>(simd, &mut sums, codes, x, ahead);
                }
                let scale = scales_of(simd, chunk.header, scale_kind, group);
                if offset == Offset::Minimum {
                    let before = chunk.n_groups * scale_kind.bytes();
                    let minimum =
                        simd.halves(bytes_at(chunk.header, (before + group * 2) * TILE_ROWS));
                    for t in 0..T {
                        let product = simd.mul(simd.to_floats(simd.end(sums[t])), scale);
                        let sum = simd.to_floats(simd.splat_int(starts[t]));
                        let product = simd.mul_add(minimum, sum, product);
                        total[t] = simd.mul_add(product, simd.splat(scales[t]), total[t]);
                    }
                } else {
                    for t in 0..T {
                        let product = simd.mul(simd.to_floats(simd.end(sums[t])), scale);
                        total[t] = simd.mul_add(product, simd.splat(scales[t]), total[t]);
                    }
                }
                left -= 1;
                if left == 0 {
                    (group, left) = (group + 1, acts_per_group);
                }
            }
        }
        total
    }
}

/// The scales of a group of a chunk.
#[inline(always)]
fn scales_of<S: IntSimd>(simd: S, header: &[Line], kind: ScaleKind, group: usize) -> S::Floats {
    let at = group * kind.bytes() * TILE_ROWS;
    match kind {
        ScaleKind::F16 => simd.halves(bytes_at(header, at)),
        ScaleKind::BF16 => simd.brain_halves(bytes_at(header, at)),
        ScaleKind::F32 => simd.singles(bytes_at(header, at)),
        ScaleKind::HalfE8m0 => simd.mul(simd.powers_of_two(bytes_at(header, at)), simd.splat(0.5)),
    }
}

/// The zero points of a group of a chunk, less the bias of the codes that the level multiplies.
#[inline(always)]
fn zero_points<S: IntSimd, C: Codes>(
    simd: S,
    chunk: Chunk<'_>,
    scale: ScaleKind,
    group: usize,
) -> S::Ints {
    let at = (chunk.n_groups * scale.bytes() + group) * TILE_ROWS;
    let zero_points = simd.load_u8(bytes_at(chunk.header, at));
    let bias = if S::SIGNED && C::BITS == 8 { -128 } else { 0 };
    simd.add_ints(zero_points, simd.splat_int(bias))
}
