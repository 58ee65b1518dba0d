//! The integer grid: `value = (code − zero_point) · scale`.

use alloc::vec::Vec;

use crate::{Grid, IntScheme, ScaleType, Symmetry, round::round_ties_even};

/// Parameters of one group on an integer grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntParams {
    /// Step between neighbouring values, already rounded to its storage type. Negative only on symmetric grids, where the sign says which
    /// end has the extra level. Never zero.
    pub scale: f32,
    /// Code of the value zero.
    pub zero_point: u8,
}

/// How parameters follow from the weights of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Range {
    /// The grid spans the weights: `2·max|w| / (2^bits − 1)` symmetric, `(max − min) / (2^bits − 1)` affine, zero always
    /// inside. The rule of the original GPTQ code.
    MinMax,
    /// The range is shrunk, and the zero point (affine) or the sign of the scale (symmetric) varied, for the least
    /// importance-weighted squared error. Never worse than `MinMax` by that measure.
    #[default]
    Search,
    /// The grid spans the weights but for the outermost ones at each end: so many of a million, rounded down. Percentile calibration.
    Percentile {
        /// Weights that may lie outside at each end, of a million.
        outside: u32,
    },
}

/// An integer grid of 2 to 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntGrid {
    /// Width, symmetry, granularity and scale storage. The granularity is the caller's business: a grid sees one group at a time.
    pub scheme: IntScheme,
    /// How parameters are found.
    pub range: Range,
    /// The least zero point of an affine grid: 1 where a file stores the zero point less one, else 0.
    pub least_zero_point: u8,
}

/// Scale candidates of the coarse pass, spread evenly from `SHRINK` to the full range.
const COARSE: u32 = 24;
/// Candidates of the fine pass on either side of the best coarse one.
const FINE: i32 = 4;
/// The most that a range is shrunk. Below this the clipped weights cost more than the finer steps gain, even at 2 bits.
const SHRINK: f32 = 0.3;
/// Distance of coarse candidates, as a fraction of the full range.
const STEP: f32 = (1.0 - SHRINK) / COARSE as f32;
/// Distance of fine candidates, as a fraction of the best coarse scale.
const FINE_STEP: f32 = STEP / (FINE + 1) as f32;

impl IntGrid {
    /// A grid with parameter search.
    pub fn new(scheme: IntScheme) -> Self {
        Self { scheme, range: Range::Search, least_zero_point: 0 }
    }

    /// A grid with plain min-max parameters.
    pub fn plain(scheme: IntScheme) -> Self {
        Self { scheme, range: Range::MinMax, least_zero_point: 0 }
    }

    /// The same grid, with zero points from `least` on.
    #[must_use]
    pub fn with_least_zero_point(self, least: u8) -> Self {
        Self { least_zero_point: least, ..self }
    }

    fn min_max(&self, weights: &[f32]) -> IntParams {
        let (low, high) = extremes(weights);
        let max_code = f32::from(self.max_code());
        match self.scheme.symmetry {
            Symmetry::Symmetric => IntParams {
                scale: self.stored(2.0 * high.max(-low) / max_code),
                zero_point: self.scheme.bits.middle(),
            },
            Symmetry::Affine => {
                let least = f32::from(self.least_zero_point);
                let scale = self.stored((high - low) / max_code);
                let zero_point = round_ties_even(-low / scale).min(max_code);
                if zero_point >= least {
                    return IntParams { scale, zero_point: zero_point as u8 };
                }
                // The codes below the least zero point are lost to the positive side.
                let scale = self.stored(high / (max_code - least));
                IntParams { scale, zero_point: self.least_zero_point }
            }
        }
    }

    /// The nearest scale that storage holds: finite, not zero, same sign. A group of zeros gets 1.
    fn stored(&self, scale: f32) -> f32 {
        let t: ScaleType = self.scheme.scale_type;
        if scale == 0.0 {
            return 1.0;
        }
        t.round(scale.abs()).clamp(t.min_positive(), t.max()).copysign(scale)
    }

    #[inline(always)]
    fn search(&self, weights: &[f32], importance: &[f32]) -> IntParams {
        let plain = self.min_max(weights);
        let (low, high) = extremes(weights);
        if low == 0.0 && high == 0.0 {
            return plain;
        }
        let mut best = Best { params: plain, loss: self.loss(weights, importance, plain) };
        match self.scheme.symmetry {
            Symmetry::Symmetric => self.search_symmetric(weights, importance, low, high, &mut best),
            Symmetry::Affine => self.search_affine(weights, importance, low, high, &mut best),
        }
        best.params
    }

    /// Shrinks the range under both signs of the scale: a negative one gives the extra level to the positive end.
    #[inline(always)]
    fn search_symmetric(&self, w: &[f32], d: &[f32], low: f32, high: f32, best: &mut Best) {
        let middle = f32::from(self.scheme.bits.middle());
        for sign in [1.0, -1.0] {
            // The scale at which neither end clips: the lower end has `middle` steps, the upper one fewer.
            let (long, short) = if sign > 0.0 { (-low, high) } else { (high, -low) };
            let full = sign * (long / middle).max(short / (middle - 1.0));
            for i in 0..COARSE {
                self.consider(w, d, full * (1.0 - STEP * i as f32), best);
            }
        }
        let center = best.params.scale;
        for i in -FINE..=FINE {
            self.consider(w, d, center * (1.0 + FINE_STEP * i as f32), best);
        }
        // Least squares for the codes of the best scale so far; the codes may then move, hence twice.
        for _ in 0..2 {
            let (qw, qq) = self.moments(w, d, best.params);
            self.consider(w, d, qw / qq, best);
        }
    }

    /// Shrinks the range about its centre and towards either end.
    #[inline(always)]
    fn search_affine(&self, w: &[f32], d: &[f32], low: f32, high: f32, best: &mut Best) {
        let top = f32::from(self.max_code());
        let full = (high - low) / top;
        for i in 0..COARSE {
            let scale = full * (1.0 - STEP * i as f32);
            let center = 0.5 * (top - (low + high) / scale);
            self.consider_zeros(w, d, scale, center, best);
            // Groups with an outlier on one side are rare, so few scales are tried for them; with few codes all zero points were tried already.
            if top > 7.0 && i % 4 == 0 {
                for end in [-low / scale, top - high / scale] {
                    self.consider_zero(w, d, scale, end, best);
                }
            }
        }
        let Best { params, .. } = *best;
        let zero = f32::from(params.zero_point);
        for i in -FINE..=FINE {
            self.consider_zeros(w, d, params.scale * (1.0 + FINE_STEP * i as f32), zero, best);
        }
        // Least squares for the codes of the best parameters so far.
        let (qw, qq) = self.moments(w, d, best.params);
        let zero = f32::from(best.params.zero_point);
        self.consider_zeros(w, d, (qw / qq).max(0.0), zero, best);
    }

    /// Keeps `scale` with the middle zero point if that lowers the loss.
    #[inline(always)]
    fn consider(&self, w: &[f32], d: &[f32], scale: f32, best: &mut Best) {
        if scale.is_finite() && scale != 0.0 {
            let zero_point = self.scheme.bits.middle();
            let params = IntParams { scale: self.stored(scale), zero_point };
            best.consider(params, self.loss(w, d, params));
        }
    }

    /// Keeps `scale` with the best zero point, if that lowers the loss: of all zero points if they are few, else of those next to `near`.
    #[inline(always)]
    fn consider_zeros(&self, w: &[f32], d: &[f32], scale: f32, near: f32, best: &mut Best) {
        if self.max_code() <= 7 {
            for zero_point in 0..=self.max_code() {
                self.consider_zero(w, d, scale, f32::from(zero_point), best);
            }
        } else {
            for step in [-1.0, 0.0, 1.0] {
                self.consider_zero(w, d, scale, near + step, best);
            }
        }
    }

    /// Keeps `scale` with the zero point nearest to `zero`, if that lowers the loss.
    #[inline(always)]
    fn consider_zero(&self, w: &[f32], d: &[f32], scale: f32, zero: f32, best: &mut Best) {
        if scale.is_finite() && scale != 0.0 {
            let (least, most) = (f32::from(self.least_zero_point), f32::from(self.max_code()));
            let zero_point = round_ties_even(zero).clamp(least, most) as u8;
            let params = IntParams { scale: self.stored(scale), zero_point };
            best.consider(params, self.loss(w, d, params));
        }
    }

    /// Σ dᵢ·(nearest(wᵢ) − wᵢ)², with all dᵢ = 1 if they are all zero (`d` empty).
    #[inline(always)]
    fn loss(&self, w: &[f32], d: &[f32], params: IntParams) -> f32 {
        let steps = Steps::new(params, self.max_code());
        lanes(w, d, |w, d| {
            let error = steps.nearest(w) * params.scale - w;
            d * error * error
        })
    }

    /// (Σ d·q·w, Σ d·q²) with q = code − zero_point.
    #[inline(always)]
    fn moments(&self, w: &[f32], d: &[f32], params: IntParams) -> (f32, f32) {
        let steps = Steps::new(params, self.max_code());
        let qw = lanes(w, d, |w, d| d * steps.nearest(w) * w);
        let qq = lanes(w, d, |w, d| {
            let q = steps.nearest(w);
            d * q * q
        });
        (qw, qq)
    }
}

impl Grid for IntGrid {
    type Params = IntParams;

    #[inline(always)]
    fn fit(&self, weights: &[f32], importance: &[f32]) -> IntParams {
        match self.range {
            Range::MinMax => self.min_max(weights),
            Range::Percentile { outside } => self.min_max(&within(weights, outside)),
            Range::Search if importance.iter().all(|&d| d == 0.0) => self.search(weights, &[]),
            Range::Search => self.search(weights, importance),
        }
    }

    fn fit_plain(&self, weights: &[f32]) -> IntParams {
        self.min_max(weights)
    }

    /// `clamp(round(value / scale) + zero_point)`, ties to even, as GPTQ and compressed-tensors round.
    #[inline(always)]
    fn encode(&self, params: IntParams, _index: usize, value: f32) -> u8 {
        let zero = f32::from(params.zero_point);
        let low = -zero;
        let high = f32::from(self.max_code()) - zero;
        (round_ties_even((value / params.scale).clamp(low, high)) + zero) as u8
    }

    #[inline(always)]
    fn decode(&self, params: IntParams, _index: usize, code: u8) -> f32 {
        (f32::from(code) - f32::from(params.zero_point)) * params.scale
    }

    fn scaled(&self, params: IntParams, ratio: f32) -> IntParams {
        let scale = params.scale * ratio;
        if scale == 0.0 || !scale.is_finite() {
            return params;
        }
        IntParams { scale: self.stored(scale), ..params }
    }

    fn max_code(&self) -> u8 {
        self.scheme.bits.max_code()
    }
}

struct Best {
    params: IntParams,
    loss: f32,
}

impl Best {
    #[inline(always)]
    fn consider(&mut self, params: IntParams, loss: f32) {
        if loss < self.loss {
            *self = Self { params, loss };
        }
    }
}

/// A grid as the inner loop of the search sees it: one multiplication instead of a division. Ties may fall otherwise than in
/// [`Grid::encode`], which does not matter to a loss.
#[derive(Clone, Copy)]
struct Steps {
    inverse: f32,
    low: f32,
    high: f32,
}

impl Steps {
    #[inline(always)]
    fn new(params: IntParams, max_code: u8) -> Self {
        let zero = f32::from(params.zero_point);
        Self { inverse: params.scale.recip(), low: -zero, high: f32::from(max_code) - zero }
    }

    /// `code − zero_point` of the nearest code.
    #[inline(always)]
    fn nearest(self, w: f32) -> f32 {
        round_ties_even((w * self.inverse).clamp(self.low, self.high))
    }
}

/// Σ f(w, d) over 16 fixed lanes, so that the sum is the same at every vector width and still vectorizes. An empty `d` stands for all ones.
#[inline(always)]
fn lanes(w: &[f32], d: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = w.as_chunks::<LANES>();
    if d.is_empty() {
        for w in whole {
            for l in 0..LANES {
                sums[l] += f(w[l], 1.0);
            }
        }
        for (l, &w) in rest.iter().enumerate() {
            sums[l] += f(w, 1.0);
        }
    } else {
        let (d_whole, d_rest) = d.as_chunks::<LANES>();
        for (w, d) in whole.iter().zip(d_whole) {
            for l in 0..LANES {
                sums[l] += f(w[l], d[l]);
            }
        }
        for (l, (&w, &d)) in rest.iter().zip(d_rest).enumerate() {
            sums[l] += f(w, d);
        }
    }
    sums.iter().sum()
}

/// The least and the largest weight that are left when so many of a million are taken away at each end.
fn within(weights: &[f32], outside: u32) -> [f32; 2] {
    let Some(last) = weights.len().checked_sub(1) else { return [0.0; 2] };
    let away = (weights.len() as u64 * u64::from(outside) / 1_000_000) as usize;
    let mut sorted: Vec<f32> = weights.to_vec();
    let mut at = |i: usize| *sorted.select_nth_unstable_by(i, f32::total_cmp).1;
    let away = away.min(last / 2);
    [at(away), at(last - away)]
}

/// Smallest and largest weight, with zero always between them.
fn extremes(weights: &[f32]) -> (f32, f32) {
    weights.iter().fold((0.0, 0.0), |(low, high), &w| (w.min(low), w.max(high)))
}
