//! HQQ: zero points by half-quadratic splitting, from the weights alone (Badri and Shaji, "Half-Quadratic Quantization", 2023).
//!
//! Scales stay those of the range. The zero point `z` of a group is moved for the least `Σ |w − s·(q − z)|^p`, `p < 1`, which cares little for the few
//! weights that are far off. With the errors split off as `e`, the two steps alternate while the mean error falls:
//!
//! ```text
//! q ← clamp(round(w/s + z));   r = w − s·(q − z)
//! e ← sign(r)·max(0, |r| − |r|^(p−1)/β);   z ← mean(q − (w − e)/s);   β ← κ·β
//! ```

use fewbit_format::{
    Granularity, Grid, IntGrid, IntParams, MatrixShape, OffsetGrid, OffsetParams, Symmetry,
};
use rayon::prelude::*;

use crate::{AwqError, checks};

/// How zero points are moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HqqSpec {
    /// `p`, in 0..=1.
    pub norm: f32,
    /// `β` of the first step.
    pub beta: f32,
    /// `κ`, by which `β` grows.
    pub growth: f32,
    /// Steps at most.
    pub steps: u32,
}

impl Default for HqqSpec {
    /// The settings of the authors' program.
    fn default() -> Self {
        Self { norm: 0.7, beta: 10.0, growth: 1.01, steps: 20 }
    }
}

/// A grid whose zero can be moved.
pub trait ZeroPoint: Grid {
    /// Step and zero point, in codes, of the range of a group; `None` if the grid has no zero point.
    fn span(&self, weights: &[f32]) -> Option<(f32, f32)>;

    /// Parameters as stored.
    fn at(&self, scale: f32, zero: f32) -> Self::Params;
}

impl ZeroPoint for IntGrid {
    fn span(&self, weights: &[f32]) -> Option<(f32, f32)> {
        let low = weights.iter().fold(0.0f32, |low, &w| low.min(w));
        let IntParams { scale, zero_point } = self.fit_plain(weights);
        let whole = zero_point == self.least_zero_point || low == 0.0;
        let zero = if whole { f32::from(zero_point) } else { -low / scale };
        (self.scheme.symmetry == Symmetry::Affine).then_some((scale, zero))
    }

    fn at(&self, scale: f32, zero: f32) -> IntParams {
        let (least, most) = (f32::from(self.least_zero_point), f32::from(self.max_code()));
        IntParams { scale, zero_point: zero.round_ties_even().clamp(least, most) as u8 }
    }
}

impl ZeroPoint for OffsetGrid {
    fn span(&self, weights: &[f32]) -> Option<(f32, f32)> {
        let range = weights
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &w| (low.min(w), high.max(w)));
        let (low, high) = range;
        let t = self.scheme.value_type;
        let scale = t.round((high - low) / f32::from(self.max_code()));
        if !(scale.is_finite() && scale > 0.0) {
            let OffsetParams { scale, offset } = self.fit_plain(weights);
            return Some((scale, -offset / scale));
        }
        Some((scale, -low / scale))
    }

    fn at(&self, scale: f32, zero: f32) -> OffsetParams {
        let t = self.scheme.value_type;
        OffsetParams { scale, offset: t.round(-scale * zero).clamp(-t.max(), t.max()) }
    }
}

/// Codes and parameters of each group, `(out_features, n_groups)` row-major, or one for [`Granularity::Tensor`].
///
/// # Errors
/// If `weight` is not `shape` or holds NaN or infinity; [`AwqError::NoZeroPoint`] on a symmetric grid.
pub fn round_half_quadratic<G: ZeroPoint>(
    weight: &[f32],
    shape: MatrixShape,
    grid: &G,
    granularity: Granularity,
    spec: &HqqSpec,
) -> Result<(Vec<u8>, Vec<G::Params>), AwqError> {
    checks::weight(weight, shape)?;
    let n = shape.in_features;
    // Groups lie within a row, unless all rows share one.
    let (row, group) = match granularity {
        Granularity::Tensor => (shape.len().max(1), shape.len().max(1)),
        other => (n.max(1), other.group_size(n).max(1)),
    };
    let mut codes = vec![0; weight.len()];
    let rows = weight.par_chunks(row).zip(codes.par_chunks_mut(row));
    let params = rows
        .map(|(weight, codes)| {
            let groups = weight.chunks(group).zip(codes.chunks_mut(group));
            let fitted = groups.map(|(weight, codes)| {
                let (scale, zero) = grid.span(weight).ok_or(AwqError::NoZeroPoint)?;
                let top = f32::from(grid.max_code());
                let params = grid.at(scale, moved(weight, scale, zero, top, spec));
                for (i, (w, code)) in weight.iter().zip(codes).enumerate() {
                    *code = grid.encode(params, i, *w);
                }
                Ok(params)
            });
            fitted.collect::<Result<Vec<_>, AwqError>>()
        })
        .collect::<Result<Vec<_>, AwqError>>()?;
    Ok((codes, params.concat()))
}

/// The zero point that the alternation ends with.
fn moved(weights: &[f32], scale: f32, start: f32, top: f32, spec: &HqqSpec) -> f32 {
    let (mut zero, mut beta, mut least) = (start, spec.beta, f64::INFINITY);
    for _ in 0..spec.steps {
        let (mut error, mut sum) = (0.0f64, 0.0f64);
        for &w in weights {
            let q = (w / scale + zero).round_ties_even().clamp(0.0, top);
            let r = w - (q - zero) * scale;
            let size = r.abs();
            let kept = (size - size.powf(spec.norm - 1.0) / beta).max(0.0);
            error += f64::from(size);
            sum += f64::from(q - (w - kept.copysign(r)) / scale);
        }
        zero = (sum / weights.len() as f64) as f32;
        beta *= spec.growth;
        if error >= least {
            break;
        }
        least = error;
    }
    zero
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_format::{Bits, IntScheme, OffsetScheme, ScaleType};
    use fewbit_testkit::Random;
    use serde_json::Value;

    /// Zero points of `optimize_weights_proximal` of hqq 0.2.8.post1, group by group (tools/goldens/half_quadratic.py).
    #[test]
    fn zero_points_are_those_of_the_authors_program() {
        let golden: Value = serde_json::from_str(include_str!("../testdata/hqq.json")).unwrap();
        let floats = |value: &Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 12);
        for case in cases {
            let weights = floats(&case["weights"]);
            let get = |key: &str| case[key].as_f64().unwrap() as f32;
            let (scale, start, top) = (get("scale"), get("start"), get("top"));
            let zero =
                moved(&weights, scale, start, top, &HqqSpec { growth: 1.0, ..HqqSpec::default() });
            assert!((zero - get("zero")).abs() < 2e-4 * top, "{zero} for {}", get("zero"));
        }
    }

    /// Σ |w − ŵ|^0.7.
    fn loss<G: Grid>(
        weight: &[f32],
        codes: &[u8],
        params: &[G::Params],
        grid: &G,
        group: usize,
    ) -> f64 {
        let values = codes.chunks(group).zip(params).flat_map(|(codes, &p)| {
            codes.iter().enumerate().map(move |(i, &code)| grid.decode(p, i, code))
        });
        weight.iter().zip(values).map(|(w, v)| f64::from((w - v).abs()).powf(0.7)).sum()
    }

    #[test]
    fn heavy_tails_are_met_better_than_by_the_range() {
        let (shape, group) = (MatrixShape::new(16, 128), 64);
        let mut random = Random::new(3);
        let weight: Vec<f32> =
            random.normals(shape.len()).into_iter().map(|x| 0.02 * x * x * x).collect();
        let spec = HqqSpec::default();
        for bits in [Bits::B2, Bits::B3, Bits::B4] {
            let scheme = OffsetScheme::new(bits, group as u32, ScaleType::F16);
            let (grid, granularity) = (OffsetGrid::new(scheme), Granularity::group(group as u32));
            let (codes, params) =
                round_half_quadratic(&weight, shape, &grid, granularity, &spec).unwrap();
            let still = HqqSpec { steps: 0, ..spec };
            let (plain, start) =
                round_half_quadratic(&weight, shape, &grid, granularity, &still).unwrap();
            let (moved, before) = (
                loss(&weight, &codes, &params, &grid, group),
                loss(&weight, &plain, &start, &grid, group),
            );
            assert!(moved < 0.99 * before, "{bits:?}: {moved} after {before}");
        }
    }

    #[test]
    fn odd_groups_and_symmetric_grids() {
        let scheme = IntScheme {
            bits: Bits::B4,
            symmetry: Symmetry::Affine,
            granularity: Granularity::group(32),
            scale_type: ScaleType::F16,
        };
        let (shape, spec) = (MatrixShape::new(2, 40), HqqSpec::default());
        let grid = IntGrid::plain(scheme);
        // Zeros, a constant group, one sign.
        let mut weight = vec![0.0; shape.len()];
        weight[32..40].fill(0.5);
        weight[40..72].iter_mut().enumerate().for_each(|(i, w)| *w = 1.0 + i as f32);
        let (codes, params) =
            round_half_quadratic(&weight, shape, &grid, scheme.granularity, &spec).unwrap();
        assert_eq!(params.len(), 4);
        for (i, w) in weight.iter().enumerate() {
            let p = params[i / 40 * 2 + i % 40 / 32];
            let value = grid.decode(p, 0, codes[i]);
            assert!((value - w).abs() <= 1.01 * p.scale, "{w} becomes {value}");
        }
        let symmetric = IntGrid::plain(IntScheme { symmetry: Symmetry::Symmetric, ..scheme });
        let refused = round_half_quadratic(&weight, shape, &symmetric, scheme.granularity, &spec);
        assert_eq!(refused.unwrap_err(), AwqError::NoZeroPoint);
    }
}
