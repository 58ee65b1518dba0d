//! The integer grid: worked examples of the format descriptions, hard groups, and what the search promises.

use fewbit_format::{
    Bits, Granularity, Grid, IntGrid, IntParams, IntScheme, Range, ScaleType, Symmetry, bf16, f16,
};
use fewbit_testkit::Random;
use proptest::prelude::*;

const SYMMETRIES: [Symmetry; 2] = [Symmetry::Symmetric, Symmetry::Affine];
const SCALE_TYPES: [ScaleType; 3] = [ScaleType::F16, ScaleType::BF16, ScaleType::F32];

fn scheme(bits: Bits, symmetry: Symmetry, scale_type: ScaleType) -> IntScheme {
    IntScheme { bits, symmetry, granularity: Granularity::Channel, scale_type }
}

/// Every width, symmetry and scale type.
fn schemes() -> impl Iterator<Item = IntScheme> {
    Bits::ALL.into_iter().flat_map(|bits| {
        SYMMETRIES
            .into_iter()
            .flat_map(move |s| SCALE_TYPES.into_iter().map(move |t| scheme(bits, s, t)))
    })
}

/// Σ d·(nearest(w) − w)² in f64; all ones for an empty `d`.
fn loss(grid: &IntGrid, params: IntParams, w: &[f32], d: &[f32]) -> f64 {
    let weight = |i: usize| d.get(i).map_or(1.0, |&d| f64::from(d));
    let error = |w: f32| f64::from(grid.nearest(params, 0, w)) - f64::from(w);
    w.iter().enumerate().map(|(i, &w)| weight(i) * error(w).powi(2)).sum()
}

fn assert_stored(scheme: &IntScheme, params: IntParams) {
    let IntParams { scale, zero_point } = params;
    assert!(scale.is_finite() && scale != 0.0, "{scheme:?}: {params:?}");
    assert_eq!(scheme.scale_type.round(scale), scale, "{scheme:?}: {params:?}");
    assert!(zero_point <= scheme.bits.max_code(), "{scheme:?}: {params:?}");
    if scheme.symmetry == Symmetry::Symmetric {
        assert_eq!(zero_point, scheme.bits.middle(), "{scheme:?}");
    } else {
        assert!(scale > 0.0, "{scheme:?}: {params:?}");
    }
}

#[test]
fn gptq_symmetric_example() {
    let grid = IntGrid::plain(scheme(Bits::B4, Symmetry::Symmetric, ScaleType::F32));
    let params = grid.fit_plain(&[1.5, -1.5, 0.3]);
    assert_eq!(params, IntParams { scale: 0.2, zero_point: 8 });
    // −7.5 rounds to even, −8; 7.5 rounds to 8, which is clamped to 7.
    assert_eq!(grid.encode(params, 0, -1.5), 0);
    assert_eq!(grid.decode(params, 0, 0), -1.6);
    assert_eq!(grid.encode(params, 0, 1.5), 15);
    assert_eq!(grid.decode(params, 0, 15), 7.0 * 0.2);
}

#[test]
fn compressed_tensors_examples() {
    let w = [-1.0, 2.0, 0.5];
    let affine = IntGrid::plain(scheme(Bits::B4, Symmetry::Affine, ScaleType::F32));
    // The zero point −3 of signed codes.
    assert_eq!(affine.fit_plain(&w), IntParams { scale: 3.0 / 15.0, zero_point: 8 - 3 });
    let symmetric = IntGrid::plain(scheme(Bits::B4, Symmetry::Symmetric, ScaleType::F32));
    assert_eq!(symmetric.fit_plain(&w).scale, 4.0 / 15.0);
}

#[test]
fn scales_are_used_as_stored() {
    let w = [0.7f32, -0.33, 0.1];
    for (scale_type, expected) in [
        (ScaleType::F16, f16::from_f32(1.4 / 15.0).to_f32()),
        (ScaleType::BF16, bf16::from_f32(1.4 / 15.0).to_f32()),
        (ScaleType::F32, 1.4 / 15.0),
    ] {
        let grid = IntGrid::plain(scheme(Bits::B4, Symmetry::Symmetric, scale_type));
        let params = grid.fit_plain(&w);
        assert_eq!(params.scale, expected);
        assert_eq!(grid.nearest(params, 0, 0.7), 7.0 * expected);
    }
}

#[test]
fn decoding_then_encoding_is_the_identity_on_all_codes() {
    for scheme in schemes() {
        let grid = IntGrid::new(scheme);
        let zeros = match scheme.symmetry {
            Symmetry::Symmetric => vec![scheme.bits.middle()],
            Symmetry::Affine => (0..=scheme.bits.max_code()).collect(),
        };
        for zero_point in zeros {
            for scale in [1.0, 0.1, 6.1e-5, 3.7e4, -0.013] {
                let params = IntParams { scale: scheme.scale_type.round(scale), zero_point };
                for code in 0..=scheme.bits.max_code() {
                    let value = grid.decode(params, 0, code);
                    assert_eq!(grid.encode(params, 0, value), code, "{scheme:?} {params:?}");
                }
            }
        }
    }
}

#[test]
fn midpoints_round_to_even() {
    let grid = IntGrid::plain(scheme(Bits::B4, Symmetry::Affine, ScaleType::F32));
    let params = IntParams { scale: 0.25, zero_point: 5 };
    for q in -5..10i8 {
        let middle = (f32::from(q) + 0.5) * 0.25;
        let down = (i16::from(q) + 5) as u8;
        let even = if q % 2 == 0 { down } else { down + 1 };
        assert_eq!(grid.encode(params, 0, middle), even, "{middle}");
        assert_eq!(grid.encode(params, 0, middle.next_down()), down, "below {middle}");
        assert_eq!(grid.encode(params, 0, middle.next_up()), down + 1, "above {middle}");
    }
    assert_eq!(grid.encode(params, 0, -1e30), 0);
    assert_eq!(grid.encode(params, 0, 1e30), 15);
}

#[test]
fn zeros_stay_zero() {
    for scheme in schemes() {
        for grid in [IntGrid::plain(scheme), IntGrid::new(scheme)] {
            for w in [[0.0f32; 20], [-0.0; 20]] {
                let params = grid.fit(&w, &[1.0; 20]);
                assert_stored(&scheme, params);
                assert_eq!(grid.nearest(params, 0, w[0]), 0.0);
            }
            // Among others, both zeros too.
            let params = grid.fit(&[0.0, -0.0, 1.0, -0.7], &[1.0; 4]);
            assert_eq!(grid.nearest(params, 0, 0.0), 0.0);
            assert_eq!(grid.nearest(params, 0, -0.0), 0.0);
        }
    }
}

/// A constant group has one value besides zero, which the search must hit up to the precision of the scale.
#[test]
fn constant_groups_are_nearly_exact() {
    for scheme in schemes() {
        let grid = IntGrid::new(scheme);
        let epsilon = match scheme.scale_type {
            ScaleType::F16 => 2f64.powi(-11),
            ScaleType::BF16 => 2f64.powi(-8),
            ScaleType::F32 => 2f64.powi(-22),
        };
        for value in [0.37f32, -0.37, 1.0, -12.5, 1e-3] {
            let params = grid.fit(&[value; 33], &[1.0; 33]);
            assert_stored(&scheme, params);
            let error = f64::from(grid.nearest(params, 0, value) - value).abs();
            assert!(error <= epsilon * f64::from(value.abs()), "{scheme:?} {value}: {error}");
        }
    }
}

#[test]
fn one_outlier_does_not_break_the_others_more_than_min_max_does() {
    let mut w = Random::new(5).normals(64);
    w[17] = 10.0;
    for scheme in schemes() {
        let (plain, search) = (IntGrid::plain(scheme), IntGrid::new(scheme));
        let (p, s) = (plain.fit(&w, &[]), search.fit(&w, &[]));
        assert_stored(&scheme, s);
        assert!(loss(&search, s, &w, &[]) <= loss(&plain, p, &w, &[]) * (1.0 + 1e-5));
        // Where the outlier does not count, it may be clipped for a much finer grid.
        let mut importance = [1.0; 64];
        importance[17] = 0.0;
        let s = search.fit(&w, &importance);
        let (fine, coarse) = (loss(&search, s, &w, &importance), loss(&plain, p, &w, &importance));
        let bound = if scheme.bits < Bits::B4 { 1.0 + 1e-5 } else { 0.5 };
        assert!(fine <= bound * coarse, "{scheme:?}: {fine} against {coarse}");
    }
}

#[test]
fn tiny_and_huge_weights_have_finite_scales() {
    for scheme in schemes() {
        for grid in [IntGrid::plain(scheme), IntGrid::new(scheme)] {
            for size in [1e-45f32, 1e-40, f32::MIN_POSITIVE, 1e-30, 1e30, f32::MAX] {
                for w in [[size, -size, 0.5 * size], [size; 3], [-size; 3]] {
                    let params = grid.fit(&w, &[1.0; 3]);
                    assert_stored(&scheme, params);
                    for w in w {
                        let code = grid.encode(params, 0, w);
                        assert!(grid.decode(params, 0, code).is_finite() || size > 1e38);
                    }
                }
            }
        }
    }
}

/// Two bits have the values −2, −1, 0, 1 times the scale: only a negative scale holds a largest positive weight.
#[test]
fn symmetric_search_finds_negative_scales() {
    let grid = IntGrid::new(scheme(Bits::B2, Symmetry::Symmetric, ScaleType::F16));
    let w = [1.0, 0.5, 0.0, -0.5, 1.0, -0.5];
    let params = grid.fit(&w, &[1.0; 6]);
    assert_eq!(params, IntParams { scale: -0.5, zero_point: 2 });
    assert_eq!(loss(&grid, params, &w, &[]), 0.0);
}

#[test]
fn least_zero_point_is_kept() {
    let mut random = Random::new(9);
    for bits in Bits::ALL {
        let scheme = scheme(bits, Symmetry::Affine, ScaleType::F16);
        let w: Vec<f32> = (0..32).map(|_| random.uniform() as f32).collect();
        for grid in [IntGrid::plain(scheme), IntGrid::new(scheme)] {
            assert_eq!(grid.fit(&w, &[1.0; 32]).zero_point, 0, "all weights are positive");
            let params = grid.with_least_zero_point(1).fit(&w, &[1.0; 32]);
            assert!(params.zero_point >= 1, "{params:?}");
            if grid == IntGrid::plain(scheme) {
                // The range still reaches the largest weight, up to the rounding of the scale.
                assert_eq!(params.zero_point, 1);
                let top = w.iter().copied().fold(0.0, f32::max);
                assert!((grid.nearest(params, 0, top) - top).abs() <= 1e-3);
            }
        }
    }
}

#[test]
fn scaled_parameters() {
    let grid = IntGrid::new(scheme(Bits::B4, Symmetry::Affine, ScaleType::F16));
    let params = IntParams { scale: 0.5, zero_point: 3 };
    assert_eq!(grid.scaled(params, 0.75), IntParams { scale: 0.375, zero_point: 3 });
    for ratio in [0.0, f32::NAN, f32::INFINITY] {
        assert_eq!(grid.scaled(params, ratio), params, "{ratio}");
    }
}

fn any_scheme() -> impl Strategy<Value = IntScheme> {
    prop::sample::select(schemes().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn search_is_never_worse_than_min_max(
        scheme in any_scheme(), n in 1usize..70, size in -8i32..8, shift in -2f32..2.0, weighted: bool, seed: u64,
    ) {
        let mut random = Random::new(seed);
        let size = 10f32.powi(size / 2);
        let w: Vec<f32> = random.normals(n).iter().map(|x| (x + shift) * size).collect();
        let d: Vec<f32> = (0..n).map(|_| if weighted { random.uniform() as f32 } else { 1.0 }).collect();
        let grid = IntGrid::new(scheme);
        let (searched, plain) = (grid.fit(&w, &d), grid.fit_plain(&w));
        assert_stored(&scheme, searched);
        assert_stored(&scheme, plain);
        let (better, worse) = (loss(&grid, searched, &w, &d), loss(&grid, plain, &w, &d));
        // The search sums in f32.
        prop_assert!(better <= worse * (1.0 + 1e-4), "{} > {}: {:?}, {:?}", better, worse, searched, plain);
    }

    /// No other code is nearer, and inside the range the error is at most half a step.
    #[test]
    fn encode_finds_the_nearest_code(scheme in any_scheme(), zero: u8, scale in 0.01f32..10.0, at in -1.2f32..1.2) {
        let max = scheme.bits.max_code();
        let zero_point = match scheme.symmetry {
            Symmetry::Symmetric => scheme.bits.middle(),
            Symmetry::Affine => zero & max,
        };
        let params = IntParams { scale: scheme.scale_type.round(scale), zero_point };
        let grid = IntGrid::new(scheme);
        let value = at * f32::from(max) * params.scale;
        let error = |code| (grid.decode(params, 0, code) - value).abs();
        let chosen = error(grid.encode(params, 0, value));
        let slack = 1e-6 * value.abs().max(params.scale);
        for code in 0..=max {
            prop_assert!(chosen <= error(code) + slack, "code {}", code);
        }
        let inside = value >= grid.decode(params, 0, 0) && value <= grid.decode(params, 0, max);
        prop_assert!(!inside || chosen <= 0.5 * params.scale + slack);
    }
}

/// A percentile range is that of the weights without the outermost ones; of too few weights, none is taken away.
#[test]
fn percentiles_leave_out_the_outermost_weights() {
    let scheme = IntScheme {
        bits: Bits::B8,
        symmetry: Symmetry::Affine,
        granularity: Granularity::Channel,
        scale_type: ScaleType::F32,
    };
    let mut weights: Vec<f32> = (0..1000).map(|i| (i * 617 % 1000) as f32 / 500.0 - 1.0).collect();
    weights[17] = 90.0;
    weights[600] = -70.0;
    let with = |range| IntGrid { range, ..IntGrid::new(scheme) };
    let ones = vec![1.0; weights.len()];
    let kept = with(Range::Percentile { outside: 1000 }).fit(&weights, &ones);
    assert!((kept.scale - 2.0 / 255.0).abs() < 3e-5, "{kept:?}");
    let all = with(Range::Percentile { outside: 999 }).fit(&weights, &ones);
    assert_eq!(all, with(Range::MinMax).fit(&weights, &ones));
    // Whatever is asked for, something is left.
    let half = with(Range::Percentile { outside: 900_000 }).fit(&weights, &ones);
    assert!(half.scale > 0.0 && half.scale < 1e-4, "{half:?}");
    assert_eq!(with(Range::Percentile { outside: 10 }).fit(&[], &[]).scale, 1.0);
}
