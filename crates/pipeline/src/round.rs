//! One matrix from float to its grid.

use std::borrow::Cow;

use fewbit_awq::{GroupMoments, round_clipped, round_half_quadratic};
use fewbit_checkpoint::{Checkpoint, ModuleScheme};
use fewbit_format::{
    BlockMatrix, BlockType, FormatError, Granularity, IntGrid, MatrixShape, OffsetGrid,
    OffsetMatrix, QuantMatrix, Quantized, Scheme,
};
use fewbit_gptq::{GptqSpec, Hessian, Mismatch, Prepared as PreparedHessian, SolveReport};
use fewbit_kernels::{Level, linear_f32, vectorize};
use fewbit_model::ModelConfig;
use rayon::prelude::*;

use crate::{
    Module, PipelineError, Prepared, Repair, Rounding,
    solver::{self, Failure},
};

/// What a method says of a matrix.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) output_error: Option<(f64, f64)>,
    pub(crate) damping: Option<f64>,
    pub(crate) rows_kept_plain: usize,
    pub(crate) repairs: Vec<Repair>,
}

/// What a rounding knows of the inputs of a site.
pub(crate) enum Statistics {
    Gptq {
        hessian: Hessian,
        mismatch: Option<Mismatch>,
    },
    Nearest {
        /// One for each size of groups.
        moments: Vec<GroupMoments>,
        /// Inputs by which errors are reported.
        sample: Vec<f32>,
    },
}

/// Tokens by which errors are reported where no Hessian is.
const SAMPLE: usize = 1024;

impl Statistics {
    /// None yet, for matrices that read the same input.
    pub(crate) fn new(rounding: &Rounding, group: &[&Module], in_features: usize) -> Self {
        match rounding {
            Rounding::Gptq { spec, mismatch } => Self::Gptq {
                hessian: Hessian::with_inputs(in_features, spec.inputs),
                mismatch: (*mismatch > 0.0).then(|| Mismatch::new(in_features)),
            },
            Rounding::Nearest | Rounding::HalfQuadratic(_) => {
                let mut sizes: Vec<Granularity> = Vec::new();
                for module in group {
                    let granularity = granularity(&module.scheme.scheme);
                    let size = granularity.group_size(in_features);
                    if sizes.iter().all(|other| other.group_size(in_features) != size) {
                        sizes.push(granularity);
                    }
                }
                let moments = sizes.iter().map(|&g| GroupMoments::new(in_features, g)).collect();
                Self::Nearest { moments, sample: Vec::new() }
            }
        }
    }

    /// Adds inputs `(n_tokens, in_features)` of the quantized stream, and of the float stream if there is one. `module` is for messages.
    pub(crate) fn add(
        &mut self,
        module: &str,
        seen: &[f32],
        meant: Option<&[f32]>,
    ) -> Result<(), PipelineError> {
        let name = || module.to_owned();
        match self {
            Self::Gptq { hessian, mismatch } => {
                let gptq = |source| PipelineError::Gptq { module: name(), source };
                hessian.add(seen).map_err(gptq)?;
                if let (Some(mismatch), Some(meant)) = (mismatch, meant) {
                    mismatch.add(meant, seen).map_err(gptq)?;
                }
            }
            Self::Nearest { moments, sample } => {
                for moments in &mut *moments {
                    let awq = |source| PipelineError::Awq { module: name(), source };
                    moments.add(seen).map_err(awq)?;
                }
                let room = moments.first().map_or(0, |m| SAMPLE * m.in_features() - sample.len());
                sample.extend_from_slice(&seen[..room.min(seen.len())]);
            }
        }
        Ok(())
    }

    /// Bytes for inputs of this width, with what adding a chunk needs.
    pub(crate) fn bytes(rounding: &Rounding, in_features: usize, chunk: usize) -> usize {
        match rounding {
            Rounding::Gptq { mismatch, .. } => {
                let mismatch =
                    if *mismatch > 0.0 { Mismatch::bytes(in_features, chunk) } else { 0 };
                Hessian::bytes(in_features) + mismatch
            }
            Rounding::Nearest | Rounding::HalfQuadratic(_) => {
                GroupMoments::bytes(in_features, Granularity::Channel) + 4 * SAMPLE * in_features
            }
        }
    }
}

/// Groups within which errors of a grid are weighed together.
fn granularity(scheme: &Scheme) -> Granularity {
    match scheme {
        Scheme::Int(scheme) => scheme.granularity,
        Scheme::Offset(scheme) => Granularity::Group(scheme.group_size),
        // Only mean squares are used of these.
        _ => Granularity::group(16),
    }
}

/// The float weight of a module, `(out_features, in_features)` row-major.
pub(crate) fn float_weight(
    model: &Checkpoint,
    config: &ModelConfig,
    module: &Module,
) -> Result<Vec<f32>, PipelineError> {
    match module.role {
        Some(role) => Ok(config.weight_f32(model, module.block, role)?),
        None => Ok(model.read_f32(&format!("{}.weight", module.scheme.module))?),
    }
}

/// The least zero point that the container stores.
pub(crate) fn least_zero_point(job: &Prepared, module: &Module) -> u8 {
    match &module.scheme.scheme {
        Scheme::Int(scheme) => job.job.container.least_zero_point(scheme),
        _ => 0,
    }
}

/// Plain rounding; only blocks look at `importance`.
pub(crate) fn round_plain(
    job: &Prepared,
    module: &Module,
    weight: &[f32],
    importance: Option<&[f32]>,
) -> Result<Quantized, PipelineError> {
    let (shape, scheme) = (module.scheme.shape, module.scheme.scheme);
    let matrix = match scheme {
        Scheme::Int(scheme) => {
            let grid = IntGrid::plain(scheme).with_least_zero_point(least_zero_point(job, module));
            QuantMatrix::round_to_nearest_on(weight, shape, &grid).map(Quantized::Int)
        }
        Scheme::Block(block_type) => {
            round_to_blocks(weight, shape, block_type, importance).map(Quantized::Block)
        }
        other => Quantized::round_to_nearest(weight, shape, other),
    };
    matrix.map_err(|source| name_format(module, source))
}

/// What needs no inputs: HQQ if that is the method, else plain rounding.
pub(crate) fn round_freely(
    job: &Prepared,
    module: &Module,
    weight: &[f32],
    importance: Option<&[f32]>,
) -> Result<Quantized, PipelineError> {
    let Rounding::HalfQuadratic(spec) = job.job.method.rounding else {
        return round_plain(job, module, weight, importance);
    };
    let (shape, name) = (module.scheme.shape, &module.scheme.module);
    let failed = |source| PipelineError::Awq { module: name.clone(), source };
    let matrix = match module.scheme.scheme {
        Scheme::Int(scheme) if module.role.is_some() => {
            let grid = IntGrid::plain(scheme).with_least_zero_point(least_zero_point(job, module));
            let (codes, params) =
                round_half_quadratic(weight, shape, &grid, scheme.granularity, &spec)
                    .map_err(failed)?;
            QuantMatrix::from_params(shape, scheme, codes, &params, None).map(Quantized::Int)
        }
        Scheme::Offset(scheme) if module.role.is_some() => {
            let groups = Granularity::Group(scheme.group_size);
            let (codes, params) =
                round_half_quadratic(weight, shape, &OffsetGrid::new(scheme), groups, &spec)
                    .map_err(failed)?;
            OffsetMatrix::from_params(shape, scheme, codes, &params).map(Quantized::Offset)
        }
        // Embedding and head may take any grid.
        _ => return round_plain(job, module, weight, importance),
    };
    matrix.map_err(|source| name_format(module, source))
}

/// Rounds to nearest with ranges that suit the inputs. Other grids than integers and blocks are rounded plainly.
pub(crate) fn round_by_inputs(
    job: &Prepared,
    module: &Module,
    weight: &[f32],
    moments: &[GroupMoments],
    sample: &[f32],
) -> Result<(Quantized, Outcome), PipelineError> {
    let (shape, name) = (module.scheme.shape, &module.scheme.module);
    let size = granularity(&module.scheme.scheme).group_size(shape.in_features);
    let moments = moments.iter().find(|m| m.group_size() == size).expect("one for each size");
    let matrix = match module.scheme.scheme {
        _ if matches!(job.job.method.rounding, Rounding::HalfQuadratic(_)) => {
            round_freely(job, module, weight, None)?
        }
        Scheme::Int(scheme) => {
            let grid = IntGrid::new(scheme).with_least_zero_point(least_zero_point(job, module));
            let rounded = round_clipped(weight, shape, moments, &grid, scheme.granularity)
                .map_err(|source| PipelineError::Awq { module: name.clone(), source })?;
            QuantMatrix::from_params(shape, scheme, rounded.codes, &rounded.params, None)
                .map(Quantized::Int)
                .map_err(|source| name_format(module, source))?
        }
        Scheme::Offset(scheme) => {
            let groups = Granularity::Group(scheme.group_size);
            let rounded = round_clipped(weight, shape, moments, &OffsetGrid::new(scheme), groups)
                .map_err(|source| PipelineError::Awq { module: name.clone(), source })?;
            OffsetMatrix::from_params(shape, scheme, rounded.codes, &rounded.params)
                .map(Quantized::Offset)
                .map_err(|source| name_format(module, source))?
        }
        _ => round_plain(job, module, weight, Some(&moments.diagonal()))?,
    };
    let plain = round_plain(job, module, weight, None)?.dequantize();
    let before = output_error(weight, plain, shape, sample);
    let after = output_error(weight, matrix.dequantize(), shape, sample);
    Ok((matrix, Outcome { output_error: Some((before, after)), ..Outcome::default() }))
}

/// Rounds by GPTQ one matrix of a group whose Hessian is factored.
pub(crate) fn round_gptq(
    job: &Prepared,
    module: &Module,
    weight: &[f32],
    prepared: &PreparedHessian<'_>,
    mismatch: Option<&Mismatch>,
    share: f32,
) -> Result<(Quantized, Outcome), PipelineError> {
    let ModuleScheme { module: name, shape, scheme, .. } = &module.scheme;
    let name_it = |source| PipelineError::Gptq { module: name.clone(), source };
    let target = match mismatch {
        Some(seen) => Cow::Owned(prepared.retarget(weight, *shape, seen, share).map_err(name_it)?),
        None => Cow::Borrowed(weight),
    };
    let least = least_zero_point(job, module);
    match solver::solve(&target, *shape, prepared, scheme, least) {
        Ok((matrix, report)) => Ok((matrix, Outcome::of(&report, prepared))),
        Err(Failure::Solver(source)) => Err(name_it(source)),
        Err(Failure::Format(source)) => Err(name_format(module, source)),
    }
}

/// Factors the Hessian of a site.
pub(crate) fn prepare_hessian<'h>(
    module: &str,
    hessian: &'h Hessian,
    spec: &GptqSpec,
) -> Result<PreparedHessian<'h>, PipelineError> {
    PreparedHessian::new(hessian, spec)
        .map_err(|source| PipelineError::Gptq { module: module.into(), source })
}

impl Outcome {
    fn of(report: &SolveReport, prepared: &PreparedHessian<'_>) -> Self {
        let mut repairs = Vec::new();
        let (asked, used) = (prepared.spec().damping, report.damping);
        if report.diagonal_only {
            repairs.push(Repair::DiagonalOnly);
        } else if used > asked {
            repairs.push(Repair::DampingRaised { asked, used });
        }
        if report.dead_columns > 0 {
            repairs.push(Repair::DeadColumns { count: report.dead_columns });
        }
        let (tokens, in_features) =
            (prepared.hessian().n_tokens(), prepared.hessian().in_features());
        if tokens < in_features {
            repairs.push(Repair::FewTokens { tokens, in_features });
        }
        let (before, after) = (report.relative_error_before, report.relative_error_after);
        if before > 0.0 && before == after {
            repairs.push(Repair::NoEffect);
        }
        Self {
            output_error: Some((before, after)),
            damping: Some(used),
            rows_kept_plain: report.rows_kept_plain,
            repairs,
        }
    }
}

fn name_format(module: &Module, source: FormatError) -> PipelineError {
    PipelineError::Format { module: module.scheme.module.clone(), source }
}

/// ‖(Ŵ − W)X‖² / ‖WX‖² on some inputs; 0 if the outputs are.
fn output_error(weight: &[f32], mut values: Vec<f32>, shape: MatrixShape, x: &[f32]) -> f64 {
    let n_tokens = x.len() / shape.in_features.max(1);
    let power = |weight: &[f32]| -> f64 {
        let mut y = vec![0.0; n_tokens * shape.out_features];
        linear_f32(Level::detect(), &mut y, x, n_tokens, weight, shape);
        y.iter().map(|&y| f64::from(y).powi(2)).sum()
    };
    for (value, w) in values.iter_mut().zip(weight) {
        *value -= w;
    }
    let (error, whole) = (power(&values), power(weight));
    if whole > 0.0 { error / whole } else { 0.0 }
}

/// Rounds into blocks, rows in parallel: they do not depend on each other.
fn round_to_blocks(
    weight: &[f32],
    shape: MatrixShape,
    block_type: BlockType,
    importance: Option<&[f32]>,
) -> Result<BlockMatrix, FormatError> {
    /// Rows of a task.
    const ROWS: usize = 16;
    let MatrixShape { in_features, .. } = shape;
    let row_bytes = block_type.row_bytes(in_features)?;
    let mut data = vec![0; row_bytes * shape.out_features];
    if !shape.is_empty() {
        let level = Level::detect();
        weight
            .par_chunks(ROWS * in_features)
            .zip(data.par_chunks_mut(ROWS * row_bytes))
            .try_for_each(|(weight, data)| {
                vectorize(
                    level,
                    #[inline(always)]
                    || block_type.encode_rows(weight, in_features, importance, data),
                )
            })?;
    }
    BlockMatrix::new(shape, block_type, data)
}
