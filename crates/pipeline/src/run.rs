//! The work itself: one block in memory at a time.
//!
//! ```text
//! states ← embeddings of the calibration windows
//! for each block:
//!     for each sequential group (query·key·value, output, gate·up, down):
//!         statistics of the group's input, over all windows, with the groups before it already quantized
//!         factor once; round each matrix of the group; put it into the block
//!     states ← the quantized block's output          (inputs of the next block carry all errors so far)
//!     tensors, states and reports of the block → work folder
//! tensors of all blocks → output folder → reopened and compared
//! ```

use std::{borrow::Cow, time::Instant};

use fewbit_checkpoint::{Checkpoint, ModuleScheme, TensorSpec, Weight};
use fewbit_format::{
    BlockMatrix, BlockType, FormatError, IntGrid, MatrixShape, QuantMatrix, Quantized, Scheme,
};
use fewbit_gptq::{GptqSpec, Mismatch, Prepared as PreparedHessian, SolveReport};
use fewbit_kernels::{Level, vectorize};
use fewbit_model::{Block, Linear, SEQUENTIAL_GROUPS};
use rayon::prelude::*;

use crate::{
    Event, MatrixReport, Method, Module, Phase, PipelineError, Prepared, Progress, Repair, Report,
    estimate::Meter,
    fingerprint::hash_values,
    job::cancelled,
    output,
    stages::States,
    streams::{Statistics, Streams},
    work::WorkFolder,
};

/// Encoded tensors of a block, as the output will hold them.
pub(crate) type Encoded = Vec<(TensorSpec, Vec<u8>)>;

/// A job at work.
pub(crate) struct Run<'a> {
    job: &'a Prepared,
    work: WorkFolder,
    started: Instant,
}

impl<'a> Run<'a> {
    pub(crate) fn new(job: &'a Prepared) -> Result<Self, PipelineError> {
        let work = WorkFolder::open(&job.work, &job.fingerprint)?;
        Ok(Self { job, work, started: Instant::now() })
    }

    pub(crate) fn run(self, progress: &mut dyn Progress) -> Result<Report, PipelineError> {
        let job = self.job;
        let n_blocks = job.n_steps();
        let resumed = self.work.finished(n_blocks);
        let mut meter = Meter::new(job, resumed);
        if resumed > 0 {
            progress.event(Event::Resumed { blocks: resumed });
        }
        let mut reports = Vec::new();
        for block in 0..resumed {
            reports.extend(self.work.reports(block)?);
        }
        if resumed < n_blocks {
            let mut streams = self.streams(resumed, progress)?;
            progress.event(Event::Phase(Phase::Quantize));
            for block in resumed..n_blocks {
                cancelled(progress, &job.work)?;
                progress.event(Event::Block { block, n_blocks });
                reports.extend(self.block(block, streams.as_mut(), &mut meter, progress)?);
            }
        }
        progress.event(Event::Phase(Phase::Write));
        output::write(job, &self.work, &reports)?;
        let report = self.report(reports, resumed);
        self.work.remove()?;
        Ok(report)
    }

    /// The calibration windows before a block: embedded, or as an earlier run stored them.
    fn streams(
        &self,
        block: usize,
        progress: &mut dyn Progress,
    ) -> Result<Option<Streams>, PipelineError> {
        let job = self.job;
        let (Method::Gptq { mismatch, .. }, Some(calibration)) =
            (job.job.method, &job.job.calibration)
        else {
            return Ok(None);
        };
        if block == job.config.n_layers {
            return Ok(None);
        }
        progress.event(Event::Phase(Phase::Embed));
        let windows: Vec<&[u32]> = calibration.windows().collect();
        if block == 0 {
            let quantized = States::embed(&job.model, &job.config, &windows)?;
            let float = (mismatch > 0.0).then(|| quantized.clone());
            return Ok(Some(Streams { quantized, float }));
        }
        let quantized = States::zeros(windows.iter().map(|w| w.len()), job.config.hidden_size);
        let float = (mismatch > 0.0).then(|| quantized.clone());
        let mut streams = Streams { quantized, float };
        self.work.read_states(block, &mut streams)?;
        Ok(Some(streams))
    }

    fn spec(&self) -> Option<GptqSpec> {
        match self.job.job.method {
            Method::Gptq { spec, .. } => Some(spec),
            Method::RoundToNearest => None,
        }
    }

    /// Quantizes a block, advances the states through it, and stores both in the work folder.
    fn block(
        &self,
        number: usize,
        streams: Option<&mut Streams>,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<Vec<MatrixReport>, PipelineError> {
        let mut done = Done::default();
        let mut modules = self.job.modules.iter().filter(|m| m.block == number).collect::<Vec<_>>();
        modules.retain(|m| m.is_quantized());
        let streams = match (streams, self.spec()) {
            (Some(streams), Some(spec)) if number < self.job.config.n_layers => {
                self.gptq_block(number, &modules, &spec, streams, &mut done, meter, progress)?;
                Some(&*streams)
            }
            _ => {
                self.round_block(&modules, &mut done, meter, progress)?;
                None
            }
        };
        output::write_block(&self.work.tensors_path(number), &done.encoded)?;
        // Nothing follows the last block.
        let streams = streams.filter(|_| number + 1 < self.job.config.n_layers);
        self.work.finish(number, &done.reports, streams)?;
        Ok(done.reports)
    }

    /// Plain rounding: weights alone decide.
    fn round_block(
        &self,
        modules: &[&Module],
        done: &mut Done,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<(), PipelineError> {
        for module in modules {
            cancelled(progress, &self.job.work)?;
            let name = &module.scheme.module;
            progress.event(Event::Matrix { module: name });
            let started = Instant::now();
            let weight = float_weight(&self.job.model, name)?;
            let (shape, scheme) = (module.scheme.shape, module.scheme.scheme);
            let matrix = match scheme {
                Scheme::Int(scheme) => {
                    let least = self.least_zero_point(module);
                    let grid = IntGrid::plain(scheme).with_least_zero_point(least);
                    QuantMatrix::round_to_nearest_on(&weight, shape, &grid).map(Quantized::Int)
                }
                Scheme::Block(block_type) => {
                    let importance = self.job.job.importance.as_ref();
                    let importance = importance.and_then(|all| all.get(name)).map(Vec::as_slice);
                    round_to_blocks(&weight, shape, block_type, importance).map(Quantized::Block)
                }
                other => Quantized::round_to_nearest(&weight, shape, other),
            };
            let matrix =
                matrix.map_err(|source| PipelineError::Format { module: name.clone(), source })?;
            self.finish(module, &weight, &matrix, Outcome::plain(), started, done, progress)?;
            meter.matrix(module, progress);
        }
        Ok(())
    }

    /// GPTQ, sequential group by sequential group.
    fn gptq_block(
        &self,
        number: usize,
        modules: &[&Module],
        spec: &GptqSpec,
        streams: &mut Streams,
        done: &mut Done,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<(), PipelineError> {
        let job = self.job;
        let mut block = Block::load(&job.model, &job.config, number)?;
        let original = streams.float.is_some().then(|| block.clone());
        for (site, roles) in SEQUENTIAL_GROUPS {
            cancelled(progress, &job.work)?;
            let group: Vec<_> = modules
                .iter()
                .filter(|m| m.role.is_some_and(|role| roles.contains(&role)))
                .collect();
            let name_it =
                |source| PipelineError::Gptq { module: block.module(roles[0]).into(), source };
            let in_features = job.config.shape(roles[0]).in_features;
            let wanted = (!group.is_empty()).then_some(in_features);
            let statistics =
                streams.inputs(&block, original.as_ref(), site, wanted).map_err(name_it)?;
            meter.inputs(site, wanted.is_some(), progress);
            if let Some(Statistics { hessian, mismatch }) = statistics {
                let prepared = PreparedHessian::new(&hessian, spec).map_err(name_it)?;
                for (module, role) in group.into_iter().filter_map(|m| Some((m, m.role?))) {
                    cancelled(progress, &job.work)?;
                    let matrix =
                        self.solve(module, &prepared, mismatch.as_ref(), done, progress)?;
                    let bias = job.model.bias(&module.scheme.module)?;
                    block.set_linear(role, Linear::from_weight(Weight::Quant(matrix), bias));
                    meter.matrix(module, progress);
                }
            }
            streams.advance(&block, original.as_ref(), site);
            meter.advance(site, progress);
        }
        Ok(())
    }

    /// Rounds one matrix of a group whose Hessian is factored.
    fn solve(
        &self,
        module: &Module,
        prepared: &PreparedHessian<'_>,
        mismatch: Option<&Mismatch>,
        done: &mut Done,
        progress: &mut dyn Progress,
    ) -> Result<Quantized, PipelineError> {
        let ModuleScheme { module: name, shape, .. } = &module.scheme;
        progress.event(Event::Matrix { module: name });
        let started = Instant::now();
        let scheme = *module.int_scheme().expect("checked before the start");
        let grid = IntGrid::new(scheme).with_least_zero_point(self.least_zero_point(module));
        let weight = float_weight(&self.job.model, name)?;
        let name_it = |source| PipelineError::Gptq { module: name.clone(), source };
        let target = match (mismatch, self.job.job.method) {
            (Some(seen), Method::Gptq { mismatch, .. }) => {
                Cow::Owned(prepared.retarget(&weight, *shape, seen, mismatch).map_err(name_it)?)
            }
            _ => Cow::Borrowed(&weight[..]),
        };
        let solution = fewbit_gptq::quantize(&target, *shape, prepared, &grid, scheme.granularity)
            .map_err(name_it)?;
        let outcome = Outcome::of(&solution.report, prepared);
        let matrix = QuantMatrix::from_params(
            *shape,
            scheme,
            solution.codes,
            &solution.params,
            solution.group_of_column,
        )
        .map_err(|source| PipelineError::Format { module: name.clone(), source })?;
        let matrix = Quantized::Int(matrix);
        self.finish(module, &weight, &matrix, outcome, started, done, progress)?;
        Ok(matrix)
    }

    /// Encodes and reports a matrix.
    fn finish(
        &self,
        module: &Module,
        weight: &[f32],
        matrix: &Quantized,
        outcome: Outcome,
        started: Instant,
        done: &mut Done,
        progress: &mut dyn Progress,
    ) -> Result<(), PipelineError> {
        let name = &module.scheme.module;
        if self.job.job.strict
            && let Some(repair) = outcome.repairs.first()
        {
            return Err(PipelineError::Strict { module: name.clone(), repair: repair.clone() });
        }
        let report = matrix_report(module, weight, matrix, outcome, started);
        progress.event(Event::MatrixDone(&report));
        done.encoded.extend(self.job.job.container.encode(name, matrix)?);
        done.reports.push(report);
        Ok(())
    }

    fn least_zero_point(&self, module: &Module) -> u8 {
        module.int_scheme().map_or(0, |scheme| self.job.job.container.least_zero_point(scheme))
    }

    fn report(&self, matrices: Vec<MatrixReport>, resumed_blocks: usize) -> Report {
        let job = self.job;
        let (bytes_before, bytes_after) = job.bytes();
        let stored: f64 = matrices.iter().map(|m| m.bits_per_weight * m.weights() as f64).sum();
        let weights: usize = matrices.iter().map(MatrixReport::weights).sum();
        let parameters: usize =
            job.model.tensors().map(|t| t.shape.iter().product::<usize>()).sum();
        let calibration = job.job.calibration.as_ref().filter(|_| self.spec().is_some());
        Report {
            version: env!("CARGO_PKG_VERSION").into(),
            method: job.job.method.name().into(),
            container: job.job.container.name().into(),
            calibration_tokens: calibration.map_or(0, |c| c.tokens().len()),
            calibration_window: calibration.map_or(0, |c| c.window()),
            bytes_before,
            bytes_after,
            bits_per_weight: stored / weights as f64,
            bits_per_parameter: bytes_after as f64 * 8.0 / parameters as f64,
            seconds: self.started.elapsed().as_secs_f64(),
            resumed_blocks,
            peak_memory: fewbit_eval::resident_memory().map(|m| m.peak),
            estimate: job.estimate().clone(),
            matrices,
        }
    }
}

/// Encoded tensors and reports of the matrices of a block.
#[derive(Default)]
struct Done {
    encoded: Encoded,
    reports: Vec<MatrixReport>,
}

/// What a method says of a matrix.
#[derive(Default)]
struct Outcome {
    output_error: Option<(f64, f64)>,
    damping: Option<f64>,
    rows_kept_plain: usize,
    repairs: Vec<Repair>,
}

impl Outcome {
    fn plain() -> Self {
        Self::default()
    }

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
        Self {
            output_error: Some((report.relative_error_before, report.relative_error_after)),
            damping: Some(used),
            rows_kept_plain: report.rows_kept_plain,
            repairs,
        }
    }
}

fn matrix_report(
    module: &Module,
    weight: &[f32],
    matrix: &Quantized,
    outcome: Outcome,
    started: Instant,
) -> MatrixReport {
    let values = matrix.dequantize();
    let squares = |f: &dyn Fn(usize) -> f32| -> f64 {
        (0..weight.len()).map(|i| f64::from(f(i)).powi(2)).sum()
    };
    let norm = squares(&|i| weight[i]);
    let error = squares(&|i| values[i] - weight[i]);
    let MatrixShape { out_features, in_features } = matrix.shape();
    MatrixReport {
        module: module.scheme.module.clone(),
        block: module.block,
        role: module.name().into(),
        out_features,
        in_features,
        grid: matrix.scheme().to_string(),
        bits_per_weight: matrix.bits_per_weight(),
        weight_error: if norm == 0.0 { 0.0 } else { (error / norm).sqrt() },
        output_error_plain: outcome.output_error.map(|(plain, _)| plain),
        output_error: outcome.output_error.map(|(_, chosen)| chosen),
        damping: outcome.damping,
        clipped: matrix.saturated().unwrap_or_default(),
        rows_kept_plain: outcome.rows_kept_plain,
        seconds: started.elapsed().as_secs_f64(),
        values_hash: hash_values(&values),
        repairs: outcome.repairs,
    }
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

/// The float weight of a module, `(out_features, in_features)` row-major.
fn float_weight(model: &Checkpoint, module: &str) -> Result<Vec<f32>, PipelineError> {
    Ok(model.read_f32(&format!("{module}.weight"))?)
}
