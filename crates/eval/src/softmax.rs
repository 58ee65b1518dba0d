//! Softmax of rows of logits in f64: maximum, log of the normaliser, negative log-likelihood, KL divergence.
//!
//! A vocabulary has up to 262,144 entries, so one token costs as many exponentials. The loops below are plain Rust over
//! [`LANES`] independent accumulators with a branch-free exponential, which the compiler turns into vector code; the order
//! of the sums is fixed, so that a result never depends on machine or threads. Everything is f64: differences of two good
//! models are as small as 1e-5 nats, which f32 sums over a large vocabulary would blur.

/// Independent partial sums.
const LANES: usize = 8;

/// A softmax that is not normalised yet: p(i) = exp(logit(i) − max) / sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// Largest logit.
    max: f32,
    /// Σ exp(logit − max), at least 1.
    sum: f64,
}

impl Softmax {
    /// Of one row; `Err` is the index of the first value that is not finite.
    pub(crate) fn of(row: &[f32]) -> Result<Self, usize> {
        let max = finite_max(row)?;
        let [sum] = lane_sums(row, row, |x, _| [exp(f64::from(x) - f64::from(max))]);
        Ok(Self { max, sum })
    }

    /// −ln p(target) in nats, never negative.
    pub(crate) fn nll(&self, row: &[f32], target: usize) -> f64 {
        f64::from(self.max) - f64::from(row[target]) + self.sum.ln()
    }
}

/// Two rows of logits over the same vocabulary, compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowDivergence {
    /// Softmax of the baseline's row.
    pub(crate) p: Softmax,
    /// Softmax of the model's row.
    pub(crate) q: Softmax,
    /// KL(p ‖ q) in nats, never negative.
    pub(crate) kl: f64,
    /// Both rows have their (first) maximum at the same index.
    pub(crate) same_top: bool,
}

/// Which of two rows holds a value that is not finite, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFinite {
    Baseline(usize),
    Model(usize),
}

impl RowDivergence {
    /// Of a baseline's row and a model's row of the same length.
    pub(crate) fn of(baseline: &[f32], model: &[f32]) -> Result<Self, NotFinite> {
        let p_max = finite_max(baseline).map_err(NotFinite::Baseline)?;
        let q_max = finite_max(model).map_err(NotFinite::Model)?;
        // With a = logit − max:  Σ p (ln p − ln q) = Σ e^a_p (a_p − a_q) / S_p − (ln S_p − ln S_q).
        let [p_sum, q_sum, weighted] = lane_sums(baseline, model, |x, y| {
            let a_p = f64::from(x) - f64::from(p_max);
            let a_q = f64::from(y) - f64::from(q_max);
            let e = exp(a_p);
            [e, exp(a_q), e * (a_p - a_q)]
        });
        // Rounding may leave some −1e-16 where the true value is almost 0.
        let kl = (weighted / p_sum - (p_sum.ln() - q_sum.ln())).max(0.0);
        Ok(Self {
            p: Softmax { max: p_max, sum: p_sum },
            q: Softmax { max: q_max, sum: q_sum },
            kl,
            same_top: first(baseline, p_max) == first(model, q_max),
        })
    }
}

/// Index of the first entry equal to `value`.
fn first(row: &[f32], value: f32) -> Option<usize> {
    row.iter().position(|&x| x == value)
}

/// Largest value; `Err` is the index of the first value that is not finite. An empty row has −∞.
fn finite_max(row: &[f32]) -> Result<f32, usize> {
    let mut max = [f32::NEG_INFINITY; LANES];
    // x · 0 is NaN for every x that is not finite, and NaN stays in a sum.
    let mut poison = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut add = |lane: usize, x: f32| {
        max[lane] = if x > max[lane] { x } else { max[lane] };
        poison[lane] += x * 0.0;
    };
    for chunk in chunks {
        for lane in 0..LANES {
            add(lane, chunk[lane]);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        add(lane, x);
    }
    if poison.iter().any(|x| x.is_nan()) {
        return Err(row.iter().position(|x| !x.is_finite()).unwrap_or(0));
    }
    Ok(max.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// Sums of `terms` over pairs of entries: lane by lane, then over the lanes from left to right.
#[inline(always)]
fn lane_sums<const N: usize>(
    a: &[f32],
    b: &[f32],
    terms: impl Fn(f32, f32) -> [f64; N],
) -> [f64; N] {
    debug_assert_eq!(a.len(), b.len());
    let mut sums = [[0.0f64; LANES]; N];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            let t = terms(a[lane], b[lane]);
            for k in 0..N {
                sums[k][lane] += t[k];
            }
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        let t = terms(a, b);
        for k in 0..N {
            sums[k][lane] += t[k];
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// e^x for x ≤ 0, without branches, within 2 ulp; below −700 it stays at e^−700 ≈ 1e-304, which no sum here can feel.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; e^r by its Taylor polynomial of degree 12 (truncation below 2e-16); 2^n by its
/// bit pattern. Adding 1.5 · 2^52 rounds to an integer and leaves it in the low bits of the mantissa.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts; n times the high part is exact.
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const INVERSE_FACTORIALS: [f64; 13] = {
        let mut c = [1.0; 13];
        let mut k = 1;
        let mut factorial = 1.0;
        while k < 13 {
            factorial *= k as f64;
            c[k] = 1.0 / factorial;
            k += 1;
        }
        c
    };
    let x = if x < -700.0 { -700.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // Even and odd powers apart: two short dependency chains instead of a long one.
    let square = r * r;
    let (mut even, mut odd) = (INVERSE_FACTORIALS[12], INVERSE_FACTORIALS[11]);
    let mut k = 10;
    while k > 0 {
        even = even * square + INVERSE_FACTORIALS[k];
        odd = odd * square + INVERSE_FACTORIALS[k - 1];
        k -= 2;
    }
    let polynomial = INVERSE_FACTORIALS[0] + (odd * r + even * square);
    polynomial * f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::Random;

    fn kl_reference(a: &[f32], b: &[f32]) -> f64 {
        let log_softmax = |row: &[f32]| -> Vec<f64> {
            let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
            let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
            row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
        };
        let (p, q) = (log_softmax(a), log_softmax(b));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    #[test]
    fn exp_agrees_with_the_standard_library() {
        let mut random = Random::new(1);
        let points = (0..20_000).map(|_| -690.0 * random.uniform().powi(3));
        for x in points.chain([0.0, -1e-300, -1e-9, -0.5, -std::f64::consts::LN_2, -699.9]) {
            let (got, want) = (exp(x), x.exp());
            assert!((got - want).abs() <= 2.0 * f64::EPSILON * want, "exp({x}): {got} != {want}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) <= 1e-303 && exp(f64::NEG_INFINITY) <= 1e-303);
    }

    #[test]
    fn every_length_around_the_lanes() {
        let mut random = Random::new(2);
        for n in 1..=4 * LANES + 1 {
            let (a, b) = (random.normals(n), random.normals(n));
            let d = RowDivergence::of(&a, &b).unwrap();
            let want = kl_reference(&a, &b);
            assert!((d.kl - want).abs() < 1e-14 * n as f64, "n {n}: {} != {want}", d.kl);
            let own = Softmax::of(&a).unwrap();
            assert_eq!(own.sum, d.p.sum, "n {n}");
            let total: f64 = (0..n).map(|t| (-own.nll(&a, t)).exp()).sum();
            assert!((total - 1.0).abs() < 1e-14, "n {n}: probabilities sum to {total}");
        }
    }

    #[test]
    fn known_divergence_of_two_coins() {
        // p = (3/4, 1/4), q = (1/4, 3/4): KL = 1/2 ln 3.
        let p = [3f32.ln(), 0.0];
        let q = [0.0, 3f32.ln()];
        let d = RowDivergence::of(&p, &q).unwrap();
        assert!((d.kl - 0.5 * 3f64.ln()).abs() < 1e-7);
        assert!(!d.same_top);
    }

    #[test]
    fn tiny_divergences_are_not_lost() {
        // For logits x and x + εz, KL → ε²/2 · Var_p(z).
        let mut random = Random::new(3);
        let n = 2000;
        let x: Vec<f32> = random.normals(n);
        let y: Vec<f32> = x.iter().map(|x| x + 1e-5 * random.normal() as f32).collect();
        let p = Softmax::of(&x).unwrap();
        let (mut mean, mut square) = (0.0, 0.0);
        for i in 0..n {
            let (w, d) = ((-p.nll(&x, i)).exp(), f64::from(y[i]) - f64::from(x[i]));
            mean += w * d;
            square += w * d * d;
        }
        let want = 0.5 * (square - mean * mean);
        let got = RowDivergence::of(&x, &y).unwrap().kl;
        assert!((got - want).abs() < 1e-3 * want, "{got} != {want}");
    }

    #[test]
    fn ties_go_to_the_lowest_index() {
        let same = |a: &[f32], b: &[f32]| RowDivergence::of(a, b).unwrap().same_top;
        assert!(same(&[1.0, 1.0, 0.0], &[5.0, 2.0, 5.0]));
        assert!(!same(&[0.0, 1.0, 1.0], &[2.0, 1.0, 1.0]));
    }

    #[test]
    fn values_that_are_not_finite_are_found_at_any_place() {
        for n in [1, LANES, 3 * LANES + 5] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in 0..n {
                    let good = vec![1.0; n];
                    let mut row = good.clone();
                    row[at] = bad;
                    assert_eq!(Softmax::of(&row).unwrap_err(), at);
                    assert_eq!(
                        RowDivergence::of(&row, &good).unwrap_err(),
                        NotFinite::Baseline(at)
                    );
                    assert_eq!(RowDivergence::of(&good, &row).unwrap_err(), NotFinite::Model(at));
                }
            }
        }
    }
}
