//! Which stored matrices have products of integers.

use fewbit_format::{BlockMatrix, BlockType, Float4, Float4Matrix, Quantized};
use fewbit_kernels::IntMatrix;

/// The matrix prepared for products with activations in 8 bits, if its grid has them.
pub(crate) fn int_matrix(matrix: &Quantized) -> Option<IntMatrix> {
    match matrix {
        Quantized::Int(matrix) => IntMatrix::from_quant(matrix),
        Quantized::Block(matrix) => IntMatrix::from_blocks(matrix.view()),
        Quantized::Float4(matrix) => IntMatrix::from_blocks(mxfp4_blocks(matrix)?.view()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_format::{MatrixShape, Scheme};
    use fewbit_testkit::Random;

    #[test]
    fn mxfp4_keeps_its_values() {
        let shape = MatrixShape::new(20, 96);
        let weight = Random::new(1).normals(shape.len());
        let scheme = Scheme::Float4(Float4::Mxfp4);
        let matrix = Quantized::round_to_nearest(&weight, shape, scheme).unwrap();
        let prepared = int_matrix(&matrix).expect("has integer products");
        let mut row = vec![f32::NAN; 96];
        for (i, expected) in matrix.dequantize().chunks(96).enumerate() {
            prepared.dequantize_row_into(i, &mut row);
            assert_eq!(row, expected);
        }
    }
}
