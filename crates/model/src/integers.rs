//! Which stored matrices have products of integers.

use fewbit_format::{
    Bits, BlockMatrix, BlockType, Float4, Float4Matrix, Granularity, IntScheme, LlmInt8Matrix,
    QuantMatrix, Quantized, ScaleType, Symmetry,
};
use fewbit_kernels::IntMatrix;

/// The matrix prepared for products with activations in 8 bits, if its grid has them.
pub(crate) fn int_matrix(matrix: &Quantized) -> Option<IntMatrix> {
    match matrix {
        Quantized::Int(matrix) => IntMatrix::from_quant(matrix),
        Quantized::Block(matrix) => IntMatrix::from_blocks(matrix.view()),
        Quantized::Float4(matrix) => IntMatrix::from_blocks(mxfp4_blocks(matrix)?.view()),
        Quantized::LlmInt8(matrix) => IntMatrix::from_quant(&signed_bytes(matrix)?),
        _ => None,
    }
}

/// The same numbers in GGML's arrangement. `None` if groups are not whole, or have a scale in common.
fn mxfp4_blocks(matrix: &Float4Matrix) -> Option<BlockMatrix> {
    if matrix.scheme() != Float4::Mxfp4 || !matrix.shape().in_features.is_multiple_of(32) {
        return None;
    }
    let groups = matrix.codes().as_chunks::<32>().0.iter().zip(matrix.scales());
    let mut data = Vec::with_capacity(matrix.scales().len() * BlockType::Mxfp4.bytes());
    for (codes, &scale) in groups {
        data.push(scale);
        data.extend((0..16).map(|i| codes[i] | codes[i + 16] << 4));
    }
    BlockMatrix::new(matrix.shape(), BlockType::Mxfp4, data).ok()
}

/// The same codes with scales rounded once where readers of LLM.int8() round twice: values differ in the last bit.
fn signed_bytes(matrix: &LlmInt8Matrix) -> Option<QuantMatrix> {
    let scheme = IntScheme {
        bits: Bits::B8,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::Channel,
        scale_type: ScaleType::F32,
    };
    let codes = matrix.codes().iter().map(|&code| code.wrapping_add(-128) as u8).collect();
    let scales = matrix.absmax().iter().map(|absmax| absmax / 127.0).collect();
    QuantMatrix::new(matrix.shape(), scheme, codes, scales, vec![], None).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_format::{MatrixShape, Scheme};
    use fewbit_testkit::Random;

    #[test]
    fn borrowed_grids_keep_their_values() {
        let shape = MatrixShape::new(20, 96);
        let weight = Random::new(1).normals(shape.len());
        for (scheme, tolerance) in [(Scheme::Float4(Float4::Mxfp4), 0.0), (Scheme::LlmInt8, 1.2e-7)]
        {
            let matrix = Quantized::round_to_nearest(&weight, shape, scheme).unwrap();
            let prepared = int_matrix(&matrix).expect("both have integer products");
            let expected = matrix.dequantize();
            let mut row = vec![f32::NAN; 96];
            for (i, expected) in expected.chunks(96).enumerate() {
                prepared.dequantize_row_into(i, &mut row);
                for (got, expected) in row.iter().zip(expected) {
                    assert!((got - expected).abs() <= tolerance * expected.abs(), "{scheme}");
                }
            }
        }
    }
}
