//! Candidates for each row, and the choice among them.

use fewbit_format::{Granularity, Grid, MatrixShape};

use crate::{
    GptqError, Groups, Hessian, Prepared, Solution, SolveReport,
    loss::losses,
    problem::{Candidate, Problem},
    refine::refine,
    solve::{Blocking, solve},
};

/// A candidate whose loss in f32 is below this fraction of plain rounding's is better beyond rounding errors.
const CLEARLY_BETTER: f64 = 0.99;

/// Rounds a matrix onto a grid by GPTQ, as [`Prepared`] was told.
///
/// No row's loss comes out above that of plain rounding in the same groups: a row where nothing beats it is rounded plainly. On
/// [`Granularity::Tensor`], where rows share parameters, these are the plain ones.
///
/// # Errors
/// If `weight` is not `shape`, holds NaN or infinity, or has another width than the Hessian.
pub fn quantize<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    grid: &G,
    granularity: Granularity,
) -> Result<Solution<G::Params>, GptqError> {
    quantize_blocked(weight, shape, prepared, grid, granularity, Blocking::default())
}

pub(crate) fn quantize_blocked<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    grid: &G,
    granularity: Granularity,
    blocking: Blocking,
) -> Result<Solution<G::Params>, GptqError> {
    let (width, groups) = (prepared.hessian().in_features(), prepared.spec().groups);
    let problem = Problem::new(weight, shape, width, grid, granularity, prepared.order(), groups)?;
    let plain = problem.round(problem.fit_plain());
    let params = problem.fit(prepared.importance());
    Ok(better_than(plain, params, problem, prepared, blocking))
}

/// Rounds a matrix onto a grid whose parameters are given, `(out_features, n_groups)` row-major in the static groups of `granularity`: codes alone are
/// chosen. For formats that store the parameters of many groups together, so that they cannot follow the codes.
///
/// No row's loss comes out above that of rounding to the nearest codes under these parameters.
///
/// # Errors
/// As [`quantize`], and [`GptqError::Params`] if there are not as many parameters as groups.
pub fn quantize_under<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    grid: &G,
    granularity: Granularity,
    params: Vec<G::Params>,
) -> Result<Solution<G::Params>, GptqError> {
    let width = prepared.hessian().in_features();
    let (grid, order) = (Kept(grid), prepared.order());
    let problem = Problem::new(weight, shape, width, &grid, granularity, order, Groups::Static)?;
    let expected = shape.out_features * problem.layout.n_groups;
    if params.len() != expected {
        return Err(GptqError::Params { got: params.len(), expected });
    }
    let plain = problem.round(params.clone());
    Ok(better_than(plain, params, problem, prepared, Blocking::default()))
}

/// A grid whose parameters stay as they are.
struct Kept<'a, G>(&'a G);

impl<G: Grid> Grid for Kept<'_, G> {
    type Params = G::Params;

    fn fit(&self, weights: &[f32], importance: &[f32]) -> G::Params {
        self.0.fit(weights, importance)
    }

    fn fit_plain(&self, weights: &[f32]) -> G::Params {
        self.0.fit_plain(weights)
    }

    #[inline(always)]
    fn encode(&self, params: G::Params, index: usize, value: f32) -> u8 {
        self.0.encode(params, index, value)
    }

    #[inline(always)]
    fn decode(&self, params: G::Params, index: usize, code: u8) -> f32 {
        self.0.decode(params, index, code)
    }

    fn scaled(&self, params: G::Params, _: f32) -> G::Params {
        params
    }

    fn max_code(&self) -> u8 {
        self.0.max_code()
    }
}

/// GPTQ and refinement from some parameters; rows where these gain nothing over `plain` stay so.
fn better_than<G: Grid>(
    plain: Candidate<G::Params>,
    params: Vec<G::Params>,
    problem: Problem<'_, G>,
    prepared: &Prepared<'_>,
    blocking: Blocking,
) -> Solution<G::Params> {
    let (hessian, spec) = (prepared.hessian(), prepared.spec());
    let loss_plain = row_losses(&problem, hessian, &plain);
    let mut best = solve(&problem, prepared, params, blocking);
    let refined = refine(&problem, prepared, &mut best, spec.refine_passes);
    let mut loss = row_losses(&problem, hessian, &best);

    let kept = keep_plain(&problem, hessian, &mut best, &plain, &mut loss, &loss_plain);
    let rows_refined = refined.iter().zip(&kept).filter(|(r, k)| **r && !**k).count();
    let report = SolveReport {
        damping: prepared.damping(),
        diagonal_only: prepared.factor().is_none(),
        rows_kept_plain: kept.iter().filter(|k| **k).count(),
        rows_refined,
        ..report(&problem, hessian, &best, loss_plain.iter().sum(), loss.iter().sum())
    };
    solution(problem, best, report)
}

/// Plain rounding: parameters from the range of the weights, every weight to its nearest value, with the same report.
///
/// # Errors
/// As [`quantize`].
pub fn round_to_nearest<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    hessian: &Hessian,
    grid: &G,
    granularity: Granularity,
) -> Result<Solution<G::Params>, GptqError> {
    let width = hessian.in_features();
    let order: Vec<usize> = (0..width).collect();
    let problem = Problem::new(weight, shape, width, grid, granularity, &order, Groups::Static)?;
    let plain = problem.round(problem.fit_plain());
    let loss = row_losses(&problem, hessian, &plain).iter().sum();
    let report = SolveReport {
        rows_kept_plain: shape.out_features,
        ..report(&problem, hessian, &plain, loss, loss)
    };
    Ok(solution(problem, plain, report))
}

/// Most bytes that [`quantize`] has in use at once on rayon's current threads, weights, Hessian and [`Prepared`] not counted, the
/// solution counted; `params` is the size of a group's parameters.
pub fn quantize_bytes(shape: MatrixShape, granularity: Granularity, params: usize) -> usize {
    let MatrixShape { out_features, in_features: n } = shape;
    let params = params * out_features * granularity.n_groups(n);
    let width = match granularity {
        Granularity::Tensor => 128,
        other => other.group_size(n).max(128),
    };
    let width = width.min(n.next_multiple_of(16));
    // Errors of some rows, in f64 where plain rounding came close.
    let errors = 8 * out_features.min(1024).next_multiple_of(16) * n;
    let per_task = 4 * 64 * (n + 3 * width);
    let tasks = rayon::current_num_threads() * per_task;
    2 * (shape.len() + params) + errors + 4 * n * width + tasks
}

fn row_losses<G: Grid>(
    problem: &Problem<'_, G>,
    hessian: &Hessian,
    candidate: &Candidate<G::Params>,
) -> Vec<f64> {
    let rows = problem.shape.out_features;
    losses::<f32>(hessian, rows, problem.level, |row, out| problem.errors(candidate, row, out))
}

/// False also if either is NaN.
fn clearly_better(loss: f64, loss_plain: f64) -> bool {
    loss < CLEARLY_BETTER * loss_plain
}

/// Puts plain rounding in place of `best` in the rows where it is not worse; returns these rows. Rows that are close are compared in f64.
fn keep_plain<G: Grid>(
    problem: &Problem<'_, G>,
    hessian: &Hessian,
    best: &mut Candidate<G::Params>,
    plain: &Candidate<G::Params>,
    loss: &mut [f64],
    loss_plain: &[f64],
) -> Vec<bool> {
    let close: Vec<usize> =
        (0..loss.len()).filter(|&row| !clearly_better(loss[row], loss_plain[row])).collect();
    let exact = |candidate: &Candidate<G::Params>| {
        losses::<f64>(hessian, close.len(), problem.level, |i, out| {
            problem.errors(candidate, close[i], out);
        })
    };
    let (of_best, of_plain) = (exact(best), exact(plain));
    let mut kept = vec![false; loss.len()];
    let (n, n_groups) = (problem.shape.in_features, problem.layout.n_groups);
    for ((&row, of_best), of_plain) in close.iter().zip(of_best).zip(of_plain) {
        if of_best < of_plain {
            loss[row] = of_best;
            continue;
        }
        kept[row] = true;
        loss[row] = of_plain;
        let (codes, params) = (row * n..(row + 1) * n, row * n_groups..(row + 1) * n_groups);
        best.codes[codes.clone()].copy_from_slice(&plain.codes[codes]);
        best.params[params.clone()].copy_from_slice(&plain.params[params]);
    }
    kept
}

fn report<G: Grid>(
    problem: &Problem<'_, G>,
    hessian: &Hessian,
    candidate: &Candidate<G::Params>,
    loss_before: f64,
    loss_after: f64,
) -> SolveReport {
    let rows = problem.shape.out_features;
    let power: f64 = losses::<f32>(hessian, rows, problem.level, |row, out| {
        for (out, &w) in out.iter_mut().zip(problem.row(row)) {
            *out = w.into();
        }
    })
    .iter()
    .sum();
    let relative = |loss: f64| if power > 0.0 { loss / power } else { 0.0 };
    let max_code = problem.grid.max_code();
    SolveReport {
        loss_before,
        loss_after,
        relative_error_before: relative(loss_before),
        relative_error_after: relative(loss_after),
        dead_columns: hessian.diagonal().iter().filter(|&&d| d == 0.0).count(),
        clipped_codes: candidate.codes.iter().filter(|&&c| c == 0 || c == max_code).count(),
        ..SolveReport::default()
    }
}

fn solution<G: Grid>(
    problem: Problem<'_, G>,
    candidate: Candidate<G::Params>,
    report: SolveReport,
) -> Solution<G::Params> {
    let Candidate { codes, mut params } = candidate;
    if problem.layout.whole_tensor {
        params.truncate(1);
    }
    Solution { codes, params, group_of_column: problem.layout.group_map(), report }
}
