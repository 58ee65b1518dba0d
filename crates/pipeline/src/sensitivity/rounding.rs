//! A matrix under a grid, and what that changes at its outputs.

use fewbit_checkpoint::Container;
use fewbit_format::{
    BlockMatrix, Granularity, IntGrid, MatrixShape, QuantMatrix, Quantized, Scheme,
};
use fewbit_gptq::{GptqSpec, Hessian, Prepared};
use fewbit_kernels::{Level, linear_f32};

use crate::{
    Method, PipelineError,
    solver::{self, Failure},
};

/// Rounds matrices that read the same input.
pub(super) struct Rounder<'a> {
    prepared: Option<Prepared<'a>>,
    /// Mean of `x·xᵀ`, `(in_features, in_features)`.
    hessian: Vec<f32>,
    mean_squares: Vec<f32>,
    container: &'a dyn Container,
}

impl<'a> Rounder<'a> {
    /// `module` is for messages.
    pub(super) fn new(
        hessian: &'a Hessian,
        method: &Method,
        container: &'a dyn Container,
        module: &str,
    ) -> Result<Self, PipelineError> {
        let prepared = match method.gptq_spec() {
            Some(spec) => {
                // Refinement helps all grids alike, and takes most of the time.
                let spec = GptqSpec { refine_passes: 0, ..spec };
                let name_it = |source| PipelineError::Gptq { module: module.into(), source };
                Some(Prepared::new(hessian, &spec).map_err(name_it)?)
            }
            None => None,
        };
        let n = hessian.in_features();
        let dense = (0..n * n).map(|i| hessian.get(i / n, i % n) as f32).collect();
        let mean_squares = hessian.diagonal().iter().map(|&d| d as f32).collect();
        Ok(Self { prepared, hessian: dense, mean_squares, container })
    }

    /// The values of a matrix under a grid.
    pub(super) fn round(
        &self,
        module: &str,
        weight: &[f32],
        shape: MatrixShape,
        grid: Scheme,
    ) -> Result<Vec<f32>, PipelineError> {
        let by_format = |source| PipelineError::Format { module: module.into(), source };
        let by_solver = |source| PipelineError::Gptq { module: module.into(), source };
        let least = match &grid {
            Scheme::Int(scheme) => self.container.least_zero_point(scheme),
            _ => 0,
        };
        let rounded = match (grid, &self.prepared) {
            (Scheme::Float, _) => return Ok(weight.to_vec()),
            (_, Some(prepared)) if solver::takes(&grid, shape) => {
                match solver::solve(weight, shape, prepared, &grid, least) {
                    Ok((matrix, _)) => Ok(matrix),
                    Err(Failure::Solver(source)) => return Err(by_solver(source)),
                    Err(Failure::Format(source)) => Err(source),
                }
            }
            (Scheme::Int(scheme), _) => {
                let grid = IntGrid::plain(scheme).with_least_zero_point(least);
                QuantMatrix::round_to_nearest_on(weight, shape, &grid).map(Quantized::Int)
            }
            (Scheme::Block(block_type), _) => {
                let importance = Some(&self.mean_squares[..]);
                BlockMatrix::round_to_nearest(weight, shape, block_type, importance)
                    .map(Quantized::Block)
            }
            (other, _) => Quantized::round_to_nearest(weight, shape, other),
        };
        Ok(rounded.map_err(by_format)?.dequantize())
    }

    /// Mean squared change of the outputs over their mean square; 0 if the outputs are.
    pub(super) fn output_error(&self, weight: &[f32], rounded: &[f32]) -> f64 {
        let change: Vec<f32> = rounded.iter().zip(weight).map(|(r, w)| r - w).collect();
        let energy = self.form(weight);
        if energy > 0.0 { self.form(&change) / energy } else { 0.0 }
    }

    /// `tr(E·H·Eᵀ)`.
    fn form(&self, rows: &[f32]) -> f64 {
        let n = self.mean_squares.len();
        let mut products = vec![0.0; rows.len()];
        let square = MatrixShape::new(n, n);
        // H is its own transpose.
        linear_f32(Level::detect(), &mut products, rows, rows.len() / n, &self.hessian, square);
        rows.iter().zip(&products).map(|(&e, &p)| f64::from(e) * f64::from(p)).sum()
    }
}

/// Every so many rows, so that at most `most` remain. All of them where rows share a scale.
pub(super) fn sample_rows(
    weight: &[f32],
    shape: MatrixShape,
    grid: &Scheme,
    most: usize,
) -> (Vec<f32>, MatrixShape) {
    let stride = shape.out_features.div_ceil(most.max(1)).max(1);
    if stride == 1 || shares_rows(grid) {
        return (weight.to_vec(), shape);
    }
    let rows: Vec<f32> =
        weight.chunks_exact(shape.in_features).step_by(stride).flatten().copied().collect();
    let shape = MatrixShape::new(rows.len() / shape.in_features, shape.in_features);
    (rows, shape)
}

/// Whether the parameters of a row depend on other rows.
fn shares_rows(grid: &Scheme) -> bool {
    match grid {
        Scheme::Int(scheme) => scheme.granularity == Granularity::Tensor,
        Scheme::Float | Scheme::Block(_) | Scheme::Offset(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensitivity::grid_of_name;
    use fewbit_checkpoint::Gptq;
    use fewbit_testkit::Random;

    /// Against the definition, which is tested in the planner.
    #[test]
    fn errors_are_those_of_the_definition() {
        let (n, out) = (64, 24);
        let mut random = Random::new(5);
        let (x, weight) = (random.normals(300 * n), random.normals(out * n));
        let shape = MatrixShape::new(out, n);
        let mut hessian = Hessian::new(n);
        hessian.add(&x).unwrap();
        let dense: Vec<f64> = (0..n * n).map(|i| hessian.get(i / n, i % n)).collect();
        let gptq = Method::gptq(GptqSpec::default(), 1.0);
        let container = Gptq::default();
        let mut errors = Vec::new();
        for method in [Method::nearest(), gptq] {
            let rounder = Rounder::new(&hessian, &method, &container, "m").unwrap();
            for name in ["int2-g32", "int4-g32", "int4-g32-sym", "q4_0", "float"] {
                let grid = grid_of_name(name).unwrap();
                let rounded = rounder.round("m", &weight, shape, grid).unwrap();
                let got = rounder.output_error(&weight, &rounded);
                let expected =
                    fewbit_planner::importance::output_error(&weight, &rounded, &dense, n).unwrap();
                assert!(
                    (got - expected).abs() <= 1e-4 * expected + 1e-12,
                    "{name}: {got} {expected}"
                );
                errors.push(got);
            }
            assert_eq!(rounder.output_error(&weight, &weight), 0.0);
        }
        assert!(errors[1] < 0.2 * errors[0] && errors[5] < errors[0], "{errors:?}");
    }

    #[test]
    fn samples_are_whole_rows() {
        let weight: Vec<f32> = (0..35).map(|i| i as f32).collect();
        let shape = MatrixShape::new(7, 5);
        let grid = grid_of_name("int4-channel").unwrap();
        let (rows, sampled) = sample_rows(&weight, shape, &grid, 3);
        assert_eq!((sampled, rows[5]), (MatrixShape::new(3, 5), 15.0));
        let tensor = grid_of_name("int4-tensor").unwrap();
        assert_eq!(sample_rows(&weight, shape, &tensor, 3).1, shape);
        assert_eq!(sample_rows(&weight, shape, &grid, 7).1, shape);
    }
}
