//! Cases whose answer is known.

mod common;

use common::*;
use fewbit_format::{Bits, Granularity, Grid, IntGrid, MatrixShape, Symmetry};
use fewbit_gptq::{
    FitFrom, GptqError, GptqSpec, Groups, Hessian, InputPrecision, Order, Prepared, Solution,
    quantize, quantize_under, round_to_nearest,
};
use fewbit_testkit::Random;

fn gptq_alone() -> GptqSpec {
    GptqSpec { refine_passes: 0, ..GptqSpec::default() }
}

/// The loop must give the codes of the textbook formulation, which forms an inverse and updates the weights.
#[test]
fn equals_the_classical_formulation() {
    let mut random = Random::new(1);
    let mut compared = 0;
    for case in 0..400 {
        let n = 2 + random.below(40);
        let bits = [Bits::B2, Bits::B3, Bits::B4, Bits::B8][case % 4];
        let order = [Order::Natural, Order::ActOrder][case / 4 % 2];
        let granularity = Granularity::group(1 + random.below(n) as u32);
        let grid = IntGrid::new(scheme(bits, Symmetry::Affine, granularity));
        let x = activations(&mut random, 3 * n, n, 0.8);
        let hessian = hessian(&x, n);
        let h = dense(&hessian);
        let spec = GptqSpec { order, ..gptq_alone() };
        let prepared = Prepared::new(&hessian, &spec).unwrap();
        let shape = MatrixShape::new(3, n);
        let w = weights(&mut random, shape.len());
        let solution = quantize(&w, shape, &prepared, &grid, granularity).unwrap();
        assert_eq!(solution.report.damping, 0.05);
        let losses = row_losses(&w, shape, &solution, &grid, &h);
        let plain = round_to_nearest(&w, shape, &hessian, &grid, granularity).unwrap();
        for row in 0..3 {
            let importance: Vec<f32> = hessian.diagonal().iter().map(|&d| d as f32).collect();
            let size = granularity.group_size(n);
            let params: Vec<_> = w[row * n..][..n]
                .chunks(size)
                .zip(importance.chunks(size))
                .map(|(w, d)| grid.fit(w, d))
                .collect();
            let w64: Vec<f64> = w[row * n..][..n].iter().map(|&w| w.into()).collect();
            let step = |c: usize| f64::from(params[c / size].scale);
            let unrounded = |c: usize, v: f64| {
                let top = f64::from(grid.max_code());
                (v / step(c) + f64::from(params[c / size].zero_point)).clamp(0.0, top)
            };
            let encode = |c: usize, v: f64| {
                let code = unrounded(c, v).round_ties_even();
                (code as u8, (code - f64::from(params[c / size].zero_point)) * step(c))
            };
            // Single precision may decide a target otherwise that lies on a boundary.
            let margin = |c: usize, v: f64| (unrounded(c, v).fract() - 0.5).abs();
            let (codes, margin) = classical(&w64, &h, 0.05, prepared.order(), encode, margin);
            let plain_row = &plain.codes[row * n..][..n];
            let kept = solution.codes[row * n..][..n] == *plain_row
                && solution.params[row * params.len()..][..params.len()] != params[..];
            if margin < 1e-3 || kept {
                continue;
            }
            compared += 1;
            assert_eq!(
                solution.codes[row * n..][..n],
                codes[..],
                "case {case}, row {row}, {n} columns, {order:?}, loss {}",
                losses[row]
            );
        }
    }
    assert!(compared > 800, "only {compared} rows of 1200 were comparable");
}

/// Parameters that are given stay, whatever rounding would like; codes under them are better than the nearest in every row.
#[test]
fn given_parameters_stay() {
    let mut random = Random::new(4);
    let (shape, granularity) = (MatrixShape::new(9, 48), Granularity::group(16));
    let grid = IntGrid::new(scheme(Bits::B3, Symmetry::Affine, granularity));
    let x = activations(&mut random, 200, 48, 0.8);
    let hessian = hessian(&x, 48);
    let prepared = Prepared::new(&hessian, &GptqSpec::default()).unwrap();
    let w = weights(&mut random, shape.len());
    let params: Vec<_> = w.chunks(16).map(|w| grid.scaled(grid.fit_plain(w), 0.9)).collect();
    let solve = |params| quantize_under(&w, shape, &prepared, &grid, granularity, params);
    let solution = solve(params.clone()).unwrap();
    assert_eq!(solution.params, params);
    let nearest: Vec<u8> =
        w.iter().enumerate().map(|(i, &w)| grid.encode(params[i / 16], i % 16, w)).collect();
    let nearest = Solution { codes: nearest, ..solution.clone() };
    let h = dense(&hessian);
    let [ours, theirs] = [&solution, &nearest].map(|s| row_losses(&w, shape, s, &grid, &h));
    assert!(ours.iter().zip(&theirs).all(|(a, b)| a <= b), "{ours:?} against {theirs:?}");
    assert!(ours.iter().sum::<f64>() < 0.7 * theirs.iter().sum::<f64>());
    let error = solve(params[1..].to_vec()).unwrap_err();
    assert!(matches!(error, GptqError::Params { got: 26, expected: 27 }), "{error}");
}

#[test]
fn one_column_is_rounded() {
    let granularity = Granularity::Channel;
    let grid = IntGrid::plain(scheme(Bits::B3, Symmetry::Symmetric, granularity));
    let hessian = hessian(&[1.0, -2.0, 0.5], 1);
    let prepared = Prepared::new(&hessian, &gptq_alone()).unwrap();
    let shape = MatrixShape::new(4, 1);
    let w = [0.3, -0.7, 0.0, 1.5];
    let solution = quantize(&w, shape, &prepared, &grid, granularity).unwrap();
    let plain = round_to_nearest(&w, shape, &hessian, &grid, granularity).unwrap();
    assert_eq!(solution.report.rows_kept_plain, 4);
    assert_eq!((solution.codes, solution.params), (plain.codes, plain.params));
}

/// H = [[1, ρ], [ρ, 1]]: after the first column, whose error is e, the target of the second is w + ρ·e.
#[test]
fn two_columns_by_hand() {
    // Tokens (√2, √2·ρ) and (0, √2·√(1 − ρ²)) have that mean, ρ = 0.6.
    let s = 2f32.sqrt();
    let hessian = hessian(&[s, 0.6 * s, 0.0, 0.8 * s], 2);
    assert!((hessian.get(0, 1) - 0.6).abs() < 1e-6 && (hessian.get(1, 1) - 1.0).abs() < 1e-6);
    let spec = GptqSpec { order: Order::Natural, damping: 0.0, ..gptq_alone() };
    let prepared = Prepared::new(&hessian, &spec).unwrap();
    let pivots = prepared.pivots().unwrap();
    assert!((pivots[0] - 0.64).abs() < 1e-6 && (pivots[1] - 1.0).abs() < 1e-6);
    // Range ±3.5 of 3 bits: step 1, codes −4..=3. The third row sets nothing; 0.4 → 0 leaves 0.4, so 0.3 becomes 0.54 → 1.
    let granularity = Granularity::Tensor;
    let grid = IntGrid::plain(scheme(Bits::B3, Symmetry::Symmetric, granularity));
    let w = [0.4, 0.3, 3.5, -3.5];
    let solution = quantize(&w, MatrixShape::new(2, 2), &prepared, &grid, granularity).unwrap();
    assert_eq!(solution.params.len(), 1);
    assert_eq!(solution.params[0].scale, 1.0);
    assert_eq!(solution.codes[..2], [4, 5]);
    // η₁ = 0.4, η₂ = 1 − 0.54: 0.16 · 0.64 + 0.46² = 0.314, below plain rounding's 0.4² + 0.3² + 2·0.6·0.4·0.3 = 0.394.
    let h = dense(&hessian);
    assert!((quadratic(&h, &[-0.4, 0.7]) - 0.314).abs() < 1e-6);
    assert!((quadratic(&h, &[-0.4, -0.3]) - 0.394).abs() < 1e-6);
    let losses = row_losses(&w, MatrixShape::new(2, 2), &solution, &grid, &h);
    assert!((losses[0] - 0.314).abs() < 1e-6, "{losses:?}");
    assert!((solution.report.loss_after - losses.iter().sum::<f64>()).abs() < 1e-6);
}

/// Uncorrelated inputs leave nothing to compensate: every code is the nearest one under the fitted parameters.
#[test]
fn diagonal_hessian_is_rounding() {
    let mut random = Random::new(2);
    let n = 24;
    for equal in [true, false] {
        let mut x = vec![0.0; n * n];
        for i in 0..n {
            x[i * n + i] = if equal { 3.0 } else { 0.1 + random.uniform() as f32 * 5.0 };
        }
        let hessian = hessian(&x, n);
        let prepared = Prepared::new(&hessian, &gptq_alone()).unwrap();
        let granularity = Granularity::group(8);
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            let scheme = scheme(Bits::B3, symmetry, granularity);
            let shape = MatrixShape::new(40, n);
            let w = weights(&mut random, shape.len());
            for grid in [IntGrid::new(scheme), IntGrid::plain(scheme)] {
                let solution = quantize(&w, shape, &prepared, &grid, granularity).unwrap();
                for row in 0..40 {
                    for c in 0..n {
                        let p = solution.params[row * 3 + c / 8];
                        assert_eq!(solution.codes[row * n + c], grid.encode(p, 0, w[row * n + c]));
                    }
                }
            }
            // With the parameters of plain rounding it is plain rounding.
            let grid = IntGrid::plain(scheme);
            let solution = quantize(&w, shape, &prepared, &grid, granularity).unwrap();
            let plain = round_to_nearest(&w, shape, &hessian, &grid, granularity).unwrap();
            assert_eq!((solution.codes, solution.params), (plain.codes, plain.params));
        }
    }
}

/// All codes of up to six columns, by enumeration: most rows come out at least as good as the best codes of the plain grid, on strongly correlated
/// inputs.
#[test]
fn often_optimal_on_small_rows() {
    let mut random = Random::new(3);
    let (mut rows, mut optimal, mut optimal_alone) = (0, 0, 0);
    for _ in 0..60 {
        let n = 2 + random.below(5);
        let x = activations(&mut random, 2 * n, n, 2.0);
        let hessian = hessian(&x, n);
        let h = dense(&hessian);
        let shape = MatrixShape::new(5, n);
        let w = weights(&mut random, shape.len());
        let granularity = Granularity::Channel;
        let grid = IntGrid::plain(scheme(Bits::B2, Symmetry::Affine, granularity));
        // The best codes are those of the Hessian without damping.
        let spec = GptqSpec { damping: 0.01, ..gptq_alone() };
        let alone = Prepared::new(&hessian, &spec).unwrap();
        let full = Prepared::new(&hessian, &GptqSpec { refine_passes: 4, ..spec }).unwrap();
        let alone = quantize(&w, shape, &alone, &grid, granularity).unwrap();
        let full = quantize(&w, shape, &full, &grid, granularity).unwrap();
        let alone = row_losses(&w, shape, &alone, &grid, &h);
        let full = row_losses(&w, shape, &full, &grid, &h);
        for row in 0..5 {
            let w = &w[row * n..][..n];
            let p = grid.fit_plain(w);
            let mut best = f64::INFINITY;
            for mut word in 0..4usize.pow(n as u32) {
                let e: Vec<f64> = w
                    .iter()
                    .map(|&w| {
                        let code = (word % 4) as u8;
                        word /= 4;
                        f64::from(grid.decode(p, 0, code)) - f64::from(w)
                    })
                    .collect();
                best = best.min(quadratic(&h, &e));
            }
            rows += 1;
            optimal += usize::from(full[row] <= best * (1.0 + 1e-9));
            optimal_alone += usize::from(alone[row] <= best * (1.0 + 1e-9));
        }
    }
    let share = |count: usize| count as f64 / rows as f64;
    // Shares found when this was written, less a margin. Refinement may also beat the best codes, by its scale.
    assert!(share(optimal) > 0.75, "refined: {optimal} of {rows} rows are optimal");
    assert!(share(optimal_alone) > 0.3, "GPTQ alone: {optimal_alone} of {rows} rows are optimal");
}

/// Reordering the inputs of weights and tokens reorders the codes, if the order of rounding follows the diagonal.
#[test]
fn act_order_follows_a_permutation() {
    let mut random = Random::new(4);
    let (n, tokens) = (48, 200);
    let shape = MatrixShape::new(20, n);
    let x = activations(&mut random, tokens, n, 0.7);
    let w = weights(&mut random, shape.len());
    // Groups of columns stay together: whole groups are reordered, and columns within each.
    let size = 16;
    let mut permutation: Vec<usize> = Vec::new();
    for group in [2, 0, 1] {
        permutation.extend((0..size).map(|i| group * size + (i * 5 + 3) % size));
    }
    let permute = |m: &[f32]| -> Vec<f32> {
        m.chunks(n).flat_map(|row| permutation.iter().map(|&c| row[c])).collect()
    };
    let granularity = Granularity::group(size as u32);
    // A power of two of tokens and exact sums would be needed for equal bits of H; codes are equal unless a target is a near tie.
    let grid = IntGrid::plain(scheme(Bits::B4, Symmetry::Symmetric, granularity));
    let run = |w: &[f32], x: &[f32]| {
        let hessian = hessian(x, n);
        let prepared = Prepared::new(&hessian, &gptq_alone()).unwrap();
        quantize(w, shape, &prepared, &grid, granularity).unwrap()
    };
    let straight = run(&w, &x);
    let permuted = run(&permute(&w), &permute(&x));
    for row in 0..20 {
        for (i, &c) in permutation.iter().enumerate() {
            assert_eq!(
                permuted.codes[row * n + i],
                straight.codes[row * n + c],
                "row {row} column {c}"
            );
        }
    }
}

#[test]
fn ordered_groups_come_with_their_map() {
    let mut random = Random::new(5);
    let n = 40;
    let shape = MatrixShape::new(6, n);
    let hessian = hessian(&activations(&mut random, 100, n, 0.6), n);
    let granularity = Granularity::group(16);
    let grid = IntGrid::new(scheme(Bits::B4, Symmetry::Affine, granularity));
    let w = weights(&mut random, shape.len());
    for fit in [FitFrom::Original, FitFrom::Updated] {
        let spec = GptqSpec { groups: Groups::Ordered, fit, ..GptqSpec::default() };
        let prepared = Prepared::new(&hessian, &spec).unwrap();
        let solution = quantize(&w, shape, &prepared, &grid, granularity).unwrap();
        let map = solution.group_of_column.as_ref().expect("sorted columns need a map");
        for (k, &column) in prepared.order().iter().enumerate() {
            assert_eq!(map[column] as usize, k / 16);
        }
        let losses = row_losses(&w, shape, &solution, &grid, &dense(&hessian));
        let (sum, report) = (losses.iter().sum::<f64>(), solution.report.loss_after);
        assert!((sum - report).abs() <= 1e-4 * sum, "{sum} but reported {report}");
        let channel = quantize(&w, shape, &prepared, &grid, Granularity::Channel).unwrap();
        assert_eq!(channel.group_of_column, None);
    }
    let natural =
        GptqSpec { order: Order::Natural, groups: Groups::Ordered, ..GptqSpec::default() };
    let prepared = Prepared::new(&hessian, &natural).unwrap();
    let solution = quantize(&w, shape, &prepared, &grid, granularity).unwrap();
    assert_eq!(solution.group_of_column, None);
}

/// Against a plain f64 product.
#[test]
fn hessian_is_the_mean_product() {
    let mut random = Random::new(6);
    for (tokens, n) in [(1, 1), (3, 5), (700, 33), (1500, 70), (2, 130)] {
        let x = activations(&mut random, tokens, n, 0.5);
        let mut hessian = Hessian::new(n);
        for batch in x.chunks(n * (tokens / 3).max(1)) {
            hessian.add(batch).unwrap();
        }
        assert_eq!(hessian.n_tokens(), tokens);
        let exact = |i: usize, j: usize| {
            let products = x.chunks(n).map(|x| f64::from(x[i]) * f64::from(x[j]));
            products.sum::<f64>() / tokens as f64
        };
        for i in 0..n {
            assert_eq!(hessian.get(i, i), hessian.diagonal()[i]);
            for j in 0..=i {
                let bound = 1e-6 * (exact(i, i) * exact(j, j)).sqrt();
                let (got, exact) = (hessian.get(i, j), exact(i, j));
                assert_eq!(got, hessian.get(j, i));
                assert!((got - exact).abs() <= bound, "{got} for {exact} at {i}, {j} of {n}");
            }
        }
    }
}

/// Rounding inside is rounding beforehand: ties, subnormals and lengths that fill no strip included.
#[test]
fn inputs_in_bf16_are_inputs_rounded_beforehand() {
    let mut random = Random::new(7);
    for (tokens, n) in [(3, 5), (300, 33), (1500, 70)] {
        let mut x = activations(&mut random, tokens, n, 0.5);
        for (x, i) in x.iter_mut().step_by(3).zip(0u32..) {
            // Halfway between two neighbours, both even and odd below; every seventh of them subnormal.
            let exponent = if i % 7 == 0 { 0 } else { 0x3f00_0000 };
            *x = f32::from_bits(exponent | (i % 128) << 16 | 0x8000);
        }
        let nearest_even = |x: f32| {
            let bits = x.to_bits();
            f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
        };
        let rounded: Vec<f32> = x.iter().map(|&x| nearest_even(x)).collect();
        assert_ne!(x, rounded);
        let mut inside = Hessian::with_inputs(n, InputPrecision::BF16);
        let mut before = Hessian::new(n);
        inside.add(&x).unwrap();
        before.add(&rounded).unwrap();
        for i in 0..n {
            for j in 0..n {
                assert_eq!(inside.get(i, j).to_bits(), before.get(i, j).to_bits(), "{i}, {j}");
            }
        }
    }
}

/// A small constant feature beside a large one, for so many tokens that an f32 sum would stop growing.
#[test]
fn long_runs_lose_no_precision() {
    let batch: Vec<f32> = [1.0, 1e-3].repeat(1 << 15);
    let mut hessian = Hessian::new(2);
    for _ in 0..640 {
        hessian.add(&batch).unwrap();
    }
    assert_eq!(hessian.n_tokens(), 640 << 15);
    let small = f64::from(1e-3f32);
    // Runs of 128 equal products are summed in f32, each addition off by half an ulp at most, always the same way here.
    let bound = 128.0 * f64::from(f32::EPSILON) / 2.0;
    for (i, j, exact) in [(0, 0, 1.0), (0, 1, small), (1, 1, small * small)] {
        let error = (hessian.get(i, j) / exact - 1.0).abs();
        assert!(error < bound, "element {i}, {j} is off by {error}");
    }
    let mut naive = 0f32;
    for _ in 0..640 << 15 {
        naive += 1.0;
    }
    assert!(naive < 0.9 * (640 << 15) as f32, "the case is long enough to show the loss");
}

#[test]
fn merging_is_adding() {
    let mut random = Random::new(7);
    let n = 20;
    let (a, b) = (activations(&mut random, 50, n, 0.5), activations(&mut random, 70, n, 0.5));
    let mut both = hessian(&a, n);
    both.add(&b).unwrap();
    let mut merged = hessian(&a, n);
    merged.merge(&hessian(&b, n)).unwrap();
    assert_eq!(merged.n_tokens(), 120);
    for i in 0..n {
        for j in 0..n {
            assert_eq!(merged.get(i, j), both.get(i, j));
        }
    }
    assert!(merged.merge(&Hessian::new(3)).is_err());
}
