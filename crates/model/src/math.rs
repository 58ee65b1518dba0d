//! Elementary functions in loops that the compiler vectorizes: the same bits on every level.

/// e^x to within 2 units in the last place; 0 below −87.3, and never more than the value at 88.
///
/// `x = n · ln 2 + r` with |r| ≤ ln 2 / 2; e^r by a polynomial, times 2^n by its exponent bits (Cephes `expf`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it leaves no fraction bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const SMALLEST: f32 = -87.3;
    let clamped = x.clamp(SMALLEST, 88.0);
    let n = (clamped * core::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    // n lies in −126..=127, so both conversion and shift are in range.
    let power = f32::from_bits(((n + ROUND).to_bits() << 23).wrapping_add(127 << 23));
    if x < SMALLEST { 0.0 } else { p * power }
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `x / 2 · (1 + tanh u)` with `u = √(2/π) · (x + 0.044715 x³)`, which is `x · sigmoid(2u)` (Hendrycks and Gimpel, 2016).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    x / (1.0 + exp(-gelu_argument(x).0))
}

/// `2u` of [`gelu_tanh`], and its slope.
#[inline(always)]
pub fn gelu_argument(x: f32) -> (f32, f32) {
    /// 2 · √(2/π).
    const SCALE: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    (SCALE * (x + CUBIC * x * x * x), SCALE * (1.0 + 3.0 * CUBIC * x * x))
}

/// Lanes of the sums below: enough to fill vector units, and fixed, so that every level adds in the same order.
const LANES: usize = 16;

#[inline(always)]
fn lanes(x: &[f32], first: f32, fold: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [first; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, x);
    }
    lanes
}

/// Σ x².
#[inline(always)]
pub fn sum_of_squares(x: &[f32]) -> f32 {
    lanes(x, 0.0, |sum, x| sum + x * x).into_iter().sum()
}

/// Σ x.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    lanes(x, 0.0, |sum, x| sum + x).into_iter().sum()
}

/// Σ (x − center)².
#[inline(always)]
pub fn sum_of_deviations(x: &[f32], center: f32) -> f32 {
    lanes(x, 0.0, |sum, x| sum + (x - center) * (x - center)).into_iter().sum()
}

/// Σ a·b.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b;
    }
    // Halves onto halves, as vectors are added.
    let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The largest number; −∞ if there is none.
#[inline(always)]
pub fn largest(x: &[f32]) -> f32 {
    let lanes = lanes(x, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces scores by `exp(scale · score)`, divided by their sum. No scores stay none.
#[inline(always)]
pub fn softmax(scores: &mut [f32], scale: f32) {
    let largest = largest(scores);
    for score in scores.iter_mut() {
        *score = exp((*score - largest) * scale);
    }
    let factor = 1.0 / sum(scores);
    for score in scores.iter_mut() {
        *score *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        let mut x = -87.29f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) = {} is off by {error:e}", exp(x));
            x += 0.001_7;
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp(200.0).is_finite());
    }

    #[test]
    fn silu_has_its_values() {
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
        assert!((silu(-20.0) + 4.122_307e-8).abs() < 1e-13);
        assert!(silu(-1000.0).abs() < 1e-30 && silu(1000.0) == 1000.0);
    }

    #[test]
    fn gelu_is_that_of_the_hyperbolic_tangent() {
        let mut x = -12.0f32;
        while x < 12.0 {
            let wide = f64::from(x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
            let exact = 0.5 * wide * (1.0 + u.tanh());
            // A few roundings of 2u move the tail by that many times its own size.
            let bound = 5e-7 * exact.abs() * (1.0 + u.abs()) + 1e-30;
            assert!((f64::from(gelu_tanh(x)) - exact).abs() < bound + 1e-15, "gelu({x})");
            x += 0.003;
        }
        assert!(gelu_tanh(1e6) == 1e6 && gelu_tanh(-1e6).abs() < 1e-30 && gelu_tanh(0.0) == 0.0);
    }

    #[test]
    fn dot_adds_every_product() {
        for n in 0..70 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
            let expected: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert_eq!(dot(&a, &b), expected);
        }
    }

    #[test]
    fn softmax_sums_to_one() {
        for n in 0..40 {
            let mut scores: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32 - 3.0).collect();
            let exact: Vec<f64> = scores.iter().map(|&s| (0.5 * f64::from(s)).exp()).collect();
            let sum: f64 = exact.iter().sum();
            softmax(&mut scores, 0.5);
            for (got, exact) in scores.iter().zip(&exact) {
                assert!((f64::from(*got) - exact / sum).abs() < 1e-6);
            }
        }
    }
}
