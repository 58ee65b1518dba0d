//! The reference's searches for scales, to the bit.
//!
//! Each tries a list of scales on a group and keeps the best, and each sums over the group in order. What the reference does one after the
//! other runs side by side in vector lanes here: the candidates of [`least_squares`], of which the winner is decided in the order of the list
//! afterwards, or the groups of a super-block, where a candidate depends on those before it. Roundings are half to even.

use core::hint::black_box;

use super::codec::{MAGIC, each, extremes, groups_of_16, map, one_by_one, signed_max};

/// Candidates that run side by side.
const LANES: usize = 16;

/// A group whose largest magnitude is below this is zero.
pub(super) const NOTHING: f32 = 1e-15;

/// Rounds to nearest even within 0 ± 2^22, as a float.
#[inline(always)]
pub(super) fn nearest(x: f32, low: f32, high: f32) -> f32 {
    (x.clamp(low, high) + MAGIC) - MAGIC
}

/// The low byte of `nearest`, two's complement. NaN gives any byte.
#[inline(always)]
pub(super) fn nearest_code(x: f32, low: f32, high: f32) -> u8 {
    (x.clamp(low, high) + MAGIC).to_bits() as u8
}

/// The codes nearest to `(x + min) / d`, from `low` on; `codes` as they were where `d` is 0.
#[inline(always)]
pub(super) fn requantize<const N: usize>(
    codes: &mut [u8; N],
    x: &[f32; N],
    d: f32,
    min: f32,
    (low, high): (f32, f32),
) {
    if d != 0.0 {
        *codes = map(x, |x| nearest_code((x + min) / d, low, high).wrapping_sub(low as i8 as u8));
    }
}

/// Scale of `x ≈ scale · q` for the least Σ w (x − scale · q)²: of the candidates, inverse scales that turn `x` into codes, the one
/// that explains most, then the scale that suits its codes best. Returns that scale and the number of the candidate.
///
/// `value` is the grid, `cross(w, x, q)` the product of the three in the order of the reference.
#[inline(always)]
pub(super) fn least_squares<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    candidates: &[f32],
    value: impl Fn(f32) -> f32,
    cross: impl Fn(f32, f32, f32) -> f32,
) -> (f32, usize) {
    let (mut scale, mut best, mut winner) = (0.0f32, 0.0f32, 0);
    for (chunk, candidates) in candidates.chunks(LANES).enumerate() {
        let mut inverse = [0.0; LANES];
        inverse[..candidates.len()].copy_from_slice(candidates);
        let mut q = [[0.0f32; LANES]; N];
        for i in 0..N {
            one_by_one();
            for k in 0..LANES {
                q[i][k] = value(inverse[k] * x[i]);
            }
        }
        let qx: [f32; LANES] = lane_sums::<LANES, N>(|i, k| cross(w[i], x[i], q[i][k]));
        let qq: [f32; LANES] = lane_sums::<LANES, N>(|i, k| w[i] * q[i][k] * q[i][k]);
        for k in 0..candidates.len() {
            let first = chunk == 0 && k == 0;
            if first && qq[k] == 0.0 {
                continue;
            }
            if first || (qq[k] > 0.0 && qx[k] * qx[k] > best * qq[k]) {
                scale = qx[k] / qq[k];
                best = scale * qx[k];
                winner = chunk * LANES + k;
            }
        }
    }
    (scale, winner)
}

/// Signed codes `−half ..= half − 1`, returned plus `half`: the scale, and the codes of the candidate that won (which are not always those
/// nearest under the final scale). All zeros for a group of nothing.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], half: f32) -> (f32, [u8; N]) {
    let max = signed_max(x);
    if max.abs() < NOTHING {
        return (0.0, [0; N]);
    }
    // 0 first, then −9 to 9 without 0, in tenths of a step.
    let candidates: [f32; 19] = each(|k| {
        let tenths = if k <= 9 { k as i32 - 10 } else { k as i32 - 9 };
        let tenths = if k == 0 { 0 } else { tenths };
        -(half + 0.1 * tenths as f32) / max
    });
    let value = |x: f32| nearest(x, -half, half - 1.0);
    let (scale, winner) = least_squares(x, w, &candidates, value, |w, x, q| w * x * q);
    let inverse = candidates[winner];
    let codes = map(x, |x| nearest_code(inverse * x, -half, half - 1.0).wrapping_add(half as u8));
    (scale, codes)
}

/// What [`affine`] tries: codes up to `max_code`, under scales at which the range of the group takes `max_code + first` to
/// `max_code + first + step · last` steps.
pub(super) struct Steps {
    pub(super) max_code: f32,
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) last: usize,
    /// The error is the magnitude instead of the square.
    pub(super) magnitude: bool,
}

/// What [`affine`] finds for each of `G` groups: `x ≈ scale · code − min`.
pub(super) struct Affine<const G: usize, const N: usize> {
    pub(super) scales: [f32; G],
    /// Not negative.
    pub(super) mins: [f32; G],
    pub(super) codes: [[u8; N]; G],
}

/// Scales and minima for the least Σ w |error| or Σ w error² of each group.
///
/// Here a candidate depends on the minimum of the best one before it, so the lanes are the groups.
#[inline(always)]
pub(super) fn affine<const G: usize, const N: usize>(
    x: &[[f32; N]; G],
    w: &[[f32; N]; G],
    steps: &Steps,
) -> Affine<G, N> {
    let top = steps.max_code;
    let (mut low, mut high) = ([0.0f32; G], [0.0f32; G]);
    for g in 0..G {
        (low[g], high[g]) = extremes(&x[g]);
        low[g] = if low[g] > 0.0 { 0.0 } else { low[g] };
    }
    let (x, w) = (&transpose(x), &transpose(w));
    let sum_w: [f32; G] = lane_sums::<G, N>(|i, g| w[i][g]);
    let sum_x: [f32; G] = lane_sums::<G, N>(|i, g| w[i][g] * x[i][g]);

    // The best so far; its codes are those nearest to `inverse · (x − base)`.
    let (mut mins, mut base) = (low, low);
    let whole: [f32; G] = each(|g| top / (high[g] - low[g]));
    let mut scales = map(&whole, f32::recip);
    let mut inverse = map(&whole, finite_or_zero);
    let q = lane_codes(x, &inverse, &base, top);
    let mut errors = lane_errors(x, w, &q, &scales, &mins, steps);

    for k in 0..=steps.last {
        let tried: [f32; G] = each(|g| {
            let steps = steps.first + steps.step * k as f32 + top;
            finite_or_zero(steps / (high[g] - mins[g]))
        });
        let q = lane_codes(x, &tried, &mins, top);
        let l: [f32; G] = lane_sums::<G, N>(|i, g| w[i][g] * q[i][g]);
        let ll: [f32; G] = lane_sums::<G, N>(|i, g| w[i][g] * q[i][g] * q[i][g]);
        let lx: [f32; G] = lane_sums::<G, N>(|i, g| w[i][g] * q[i][g] * x[i][g]);
        // Weighted least squares for these codes, the minimum at most 0.
        let determinant: [f32; G] = each(|g| sum_w[g] * ll[g] - l[g] * l[g]);
        let free: [f32; G] = each(|g| (ll[g] * sum_x[g] - l[g] * lx[g]) / determinant[g]);
        let new_mins: [f32; G] = each(|g| if free[g] > 0.0 { 0.0 } else { free[g] });
        let new_scales: [f32; G] = each(|g| {
            let both = (sum_w[g] * lx[g] - sum_x[g] * l[g], determinant[g]);
            let (above, below) = if free[g] > 0.0 { (lx[g], ll[g]) } else { both };
            above / below
        });
        let new_errors = lane_errors(x, w, &q, &new_scales, &new_mins, steps);
        for g in 0..G {
            let better = determinant[g] > 0.0 && new_errors[g] < errors[g];
            errors[g] = if better { new_errors[g] } else { errors[g] };
            scales[g] = if better { new_scales[g] } else { scales[g] };
            inverse[g] = if better { tried[g] } else { inverse[g] };
            base[g] = if better { mins[g] } else { base[g] };
            mins[g] = if better { new_mins[g] } else { mins[g] };
        }
    }
    let codes = each(|g| each(|i| nearest_code(inverse[g] * (x[i][g] - base[g]), 0.0, top)));
    Affine { scales, mins: map(&mins, |m: f32| -m), codes }
}

/// The codes, as floats, nearest to `inverse · (x − base)`.
#[inline(always)]
fn lane_codes<const G: usize, const N: usize>(
    x: &[[f32; G]; N],
    inverse: &[f32; G],
    base: &[f32; G],
    top: f32,
) -> [[f32; G]; N] {
    let mut q = [[0.0f32; G]; N];
    for i in 0..N {
        one_by_one();
        for g in 0..G {
            q[i][g] = nearest(inverse[g] * (x[i][g] - base[g]), 0.0, top);
        }
    }
    q
}

/// Σ w |e| or Σ w e² for codes `q`.
#[inline(always)]
fn lane_errors<const G: usize, const N: usize>(
    x: &[[f32; G]; N],
    w: &[[f32; G]; N],
    q: &[[f32; G]; N],
    scales: &[f32; G],
    mins: &[f32; G],
    steps: &Steps,
) -> [f32; G] {
    lane_sums::<G, N>(|i, g| {
        let e = scales[g] * q[i][g] + mins[g] - x[i][g];
        w[i][g] * if steps.magnitude { e.abs() } else { e * e }
    })
}

/// Σ f(i, lane) over i < N of each lane, in order.
///
/// One sum a loop, and its result opaque: otherwise the compiler arranges lanes by their later uses and shuffles them here.
#[inline(always)]
fn lane_sums<const G: usize, const N: usize>(f: impl Fn(usize, usize) -> f32) -> [f32; G] {
    let mut sums = [0.0f32; G];
    for i in 0..N {
        for g in 0..G {
            sums[g] += f(i, g);
        }
    }
    black_box(sums)
}

/// Scales that overflow make all codes 0.
#[inline(always)]
fn finite_or_zero(inverse: f32) -> f32 {
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Groups become lanes.
#[inline(always)]
fn transpose<const G: usize, const N: usize>(x: &[[f32; N]; G]) -> [[f32; G]; N] {
    each(|i| each(|g| x[g][i]))
}

/// Codes `0 ..= max_code` and the scale for values that are not negative, such as the scales of a super-block's groups: the best of nine
/// scales, then up to five rounds in which each code may move under the scale that the others ask for.
#[inline(always)]
pub(super) fn not_negative<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    max_code: f32,
) -> (f32, [u8; N]) {
    let mut max = 0.0f32;
    for x in x {
        max = max.max(*x);
    }
    if max < NOTHING {
        return (0.0, [0; N]);
    }
    let error = |inverse: f32| {
        let scale = inverse.recip();
        let mut sum = 0.0;
        for i in 0..N {
            let difference = x[i] - scale * nearest(inverse * x[i], 0.0, max_code);
            sum += w[i] * difference * difference;
        }
        sum
    };
    let mut inverse = max_code / max;
    let mut best = error(inverse);
    for tenths in (-4..=4).filter(|&t| t != 0) {
        let tried = (0.1 * tenths as f32 + max_code) / max;
        let e = error(tried);
        if e < best {
            (best, inverse) = (e, tried);
        }
    }
    let mut q = map(x, |x| nearest(inverse * x, 0.0, max_code));
    let (mut qx, mut qq) = (0.0, 0.0);
    for i in 0..N {
        qx += w[i] * x[i] * q[i];
        qq += w[i] * q[i] * q[i];
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let rest_x = qx - w[i] * x[i] * q[i];
            let rest_q = qq - w[i] * q[i] * q[i];
            if !(rest_x > 0.0 && rest_q > 0.0) {
                continue;
            }
            let code = nearest(x[i] * rest_q / rest_x, 0.0, max_code);
            if code == q[i] {
                continue;
            }
            let (new_x, new_q) = (rest_x + w[i] * x[i] * code, rest_q + w[i] * code * code);
            if new_x * new_x * qq > qx * qx * new_q {
                (q[i], qx, qq, changed) = (code, new_x, new_q, true);
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if qq > 0.0 { qx / qq } else { 0.0 };
    (scale, map(&q, |q| q as u8))
}

/// Scales and codes of the 16 groups of a q3_k super-block: from codes of −4 to 3 under the plain range, plus 4, up to five rounds in which each code may move
/// under the scale that the others ask for. The errors are weighted by x². Here the lanes are the groups.
#[inline(always)]
pub(super) fn refine(weights: &[f32; 256]) -> ([f32; 16], [[u8; 16]; 16]) {
    let groups = groups_of_16(weights);
    let max = map(groups, |x| signed_max(&x));
    let x = transpose(groups);
    let mut q = [[0.0f32; 16]; 16];
    let (mut qx, mut qq) = ([0.0f32; 16], [0.0f32; 16]);
    for i in 0..16 {
        for g in 0..16 {
            let w = x[i][g] * x[i][g];
            q[i][g] = nearest(-4.0 / max[g] * x[i][g], -4.0, 3.0);
            qx[g] += w * x[i][g] * q[i][g];
            qq[g] += w * q[i][g] * q[i][g];
        }
    }
    for _ in 0..5 {
        let mut changed = [false; 16];
        for i in 0..16 {
            for g in 0..16 {
                let (x, old) = (x[i][g], q[i][g]);
                let w = x * x;
                let (rest_x, rest_q) = (qx[g] - w * x * old, qq[g] - w * old * old);
                let code = nearest(x * rest_q / rest_x, -4.0, 3.0);
                let (new_x, new_q) = (rest_x + w * x * code, rest_q + w * code * code);
                let better = rest_x > 0.0
                    && code != old
                    && new_q > 0.0
                    && new_x * new_x * qq[g] > qx[g] * qx[g] * new_q;
                q[i][g] = if better { code } else { old };
                qx[g] = if better { new_x } else { qx[g] };
                qq[g] = if better { new_q } else { qq[g] };
                changed[g] |= better;
            }
        }
        if changed == [false; 16] {
            break;
        }
    }
    let nothing = map(&max, |max: f32| max.abs() < NOTHING);
    let scales = each(|g| if nothing[g] || qq[g] <= 0.0 { 0.0 } else { qx[g] / qq[g] });
    let codes = each(|g| each(|i| if nothing[g] { 0 } else { (q[i][g] + 4.0) as u8 }));
    (scales, codes)
}
