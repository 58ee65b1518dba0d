//! LLM.int8(): integers but for the few activations that are large.
//!
//! Dettmers et al. 2022, <https://arxiv.org/abs/2208.07339>. In large models a few columns of the activations are tens of times the others; under one scale for
//! a token they would leave the others few steps. They are multiplied as floats, with the same weights.

use alloc::vec::Vec;

use fewbit_format::{
    Bits, Granularity, IntScheme, LlmInt8Matrix, MatrixShape, QuantMatrix, ScaleType, Symmetry,
};

use super::{
    layout::TILE_ROWS,
    matrix::{IntMatrix, Scratch},
    panel::ActivationScales,
};
use crate::{Level, parallel::for_each_chunk};

/// A matrix of LLM.int8() prepared for products in which activations beyond a threshold stay floats.
///
/// bitsandbytes takes a column out of the integers for all tokens of a call where it is large for one; here each token has its own large columns, so that results do not
/// depend on which tokens are multiplied together.
#[derive(Clone, Debug)]
pub struct LlmInt8Linear {
    matrix: IntMatrix,
    /// (out_features)
    absmax: Vec<f32>,
    threshold: f32,
}

impl LlmInt8Linear {
    /// The threshold that the paper and bitsandbytes use.
    pub const THRESHOLD: f32 = 6.0;

    /// Prepares a matrix. Activations of magnitudes above `threshold` are multiplied as floats.
    pub fn new(matrix: &LlmInt8Matrix, threshold: f32) -> Self {
        let scheme = IntScheme {
            bits: Bits::B8,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Channel,
            scale_type: ScaleType::F32,
        };
        let codes = matrix.codes().iter().map(|code| code.cast_unsigned() ^ 0x80).collect();
        // Without columns there are no groups.
        let n_scales = scheme.granularity.n_scales(matrix.shape());
        let scales = matrix.absmax()[..n_scales].iter().map(|absmax| absmax / 127.0).collect();
        let quant = QuantMatrix::new(matrix.shape(), scheme, codes, scales, Vec::new(), None)
            .expect("codes are bytes and magnitudes finite");
        let prepared = IntMatrix::from_quant(&quant).expect("one group a row needs no padding");
        Self { matrix: prepared, absmax: matrix.absmax().to_vec(), threshold }
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.matrix.shape()
    }

    /// Bytes that it takes in memory.
    pub fn packed_bytes(&self) -> usize {
        self.matrix.packed_bytes() + size_of_val(&*self.absmax)
    }

    /// Writes the values of one row, `in_features` of them: the same bits as `LlmInt8Matrix::dequantize_row_into`. Not made to be fast.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let MatrixShape { out_features, in_features } = self.shape();
        assert!(row < out_features, "no row {row}");
        assert_eq!(out.len(), in_features, "a row has in_features values");
        for (column, out) in out.iter_mut().enumerate() {
            let code = self.matrix.column_codes(row / TILE_ROWS, column)[row % TILE_ROWS];
            *out = centred(code) * self.absmax[row] * (1.0 / 127.0);
        }
    }

    /// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ`.
    ///
    /// # Panics
    /// If a length does not follow from the shape.
    pub fn linear(
        &self,
        level: Level,
        out: &mut [f32],
        x: &[f32],
        n_tokens: usize,
        scratch: &mut Scratch,
    ) {
        let MatrixShape { out_features, in_features } = self.shape();
        assert_eq!(x.len(), n_tokens * in_features, "x is (n_tokens, in_features)");
        let is_large = |x: f32| x.abs() > self.threshold;
        let mut inliers = core::mem::take(&mut scratch.inliers);
        inliers.clear();
        inliers.extend(x.iter().map(|&x| if is_large(x) { 0.0 } else { x }));
        let scales = ActivationScales::PerToken;
        self.matrix.linear_scaled(level, out, &inliers, n_tokens, scales, scratch);
        scratch.inliers = inliers;

        let tokens =
            x.chunks_exact(in_features.max(1)).zip(out.chunks_exact_mut(out_features.max(1)));
        for (x, out) in tokens {
            let large: Vec<(usize, f32)> =
                x.iter().copied().enumerate().filter(|&(_, x)| is_large(x)).collect();
            if large.is_empty() {
                continue;
            }
            for_each_chunk(out, TILE_ROWS, large.len() * out_features > 1 << 14, |tile, out| {
                let mut sums = [0.0; TILE_ROWS];
                for &(column, x) in &large {
                    let codes = self.matrix.column_codes(tile, column);
                    for (sum, code) in sums.iter_mut().zip(codes) {
                        *sum += x * centred(code);
                    }
                }
                let absmax = &self.absmax[tile * TILE_ROWS..];
                for ((out, sum), absmax) in out.iter_mut().zip(sums).zip(absmax) {
                    *out += sum * (absmax / 127.0);
                }
            });
        }
    }
}

/// The signed value of a code that is stored plus 128.
fn centred(code: u8) -> f32 {
    f32::from((code ^ 0x80).cast_signed())
}
