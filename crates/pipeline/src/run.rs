//! The work itself: one block in memory at a time.
//!
//! ```text
//! states ← embeddings of the calibration windows
//! for each block:
//!     transform: scales of each input, folded into the norms and matrices before   (`transform.rs`)
//!     for each sequential group (query·key·value, output, gate·up, down):
//!         statistics of the group's input, over all windows, with the groups before it already quantized
//!         factor once; round each matrix of the group; put it into the block       (`round.rs`)
//!     states ← the quantized block's output          (inputs of the next block carry all errors so far)
//!     tensors, states and reports of the block → work folder
//! tensors of all blocks → output folder → reopened and compared
//! ```

use std::time::Instant;

use fewbit_checkpoint::{TensorSpec, Weight};
use fewbit_format::{MatrixShape, Quantized};
use fewbit_model::{Block, Linear, Site};

use crate::{
    BlockReport, Event, MatrixReport, Module, Phase, PipelineError, Prepared, Progress, Report,
    Rounding, Transform,
    estimate::Meter,
    fingerprint::hash_values,
    job::cancelled,
    output,
    round::{
        Outcome, Statistics, float_weight, prepare_hessian, round_by_inputs, round_freely,
        round_gptq,
    },
    stages::States,
    streams::Streams,
    transform::{self, Transformed},
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
        let mut reports = BlockReport::default();
        for block in 0..resumed {
            reports.append(self.work.report(block)?);
        }
        if resumed < n_blocks {
            let mut streams = self.streams(resumed, progress)?;
            progress.event(Event::Phase(Phase::Quantize));
            for block in resumed..n_blocks {
                cancelled(progress, &job.work)?;
                progress.event(Event::Block { block, n_blocks });
                reports.append(self.block(block, streams.as_mut(), &mut meter, progress)?);
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
        let calibration = job.job.calibration.as_ref();
        let Some(calibration) = calibration.filter(|_| job.job.method.needs_calibration()) else {
            return Ok(None);
        };
        let mismatch = job.job.method.mismatch();
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

    /// Quantizes a block, advances the states through it, and stores both in the work folder.
    fn block(
        &self,
        number: usize,
        streams: Option<&mut Streams>,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<BlockReport, PipelineError> {
        let mut done = Done::default();
        let mut modules = self.job.modules.iter().filter(|m| m.block == number).collect::<Vec<_>>();
        modules.retain(|m| m.is_quantized());
        let streams = match streams {
            Some(streams) if number < self.job.config.n_layers => {
                self.calibrated_block(number, &modules, streams, &mut done, meter, progress)?;
                Some(&*streams)
            }
            _ => {
                self.plain_block(&modules, &mut done, meter, progress)?;
                None
            }
        };
        output::write_block(&self.work.tensors_path(number), &done.encoded)?;
        // Nothing follows the last block.
        let streams = streams.filter(|_| number + 1 < self.job.config.n_layers);
        self.work.finish(number, &done.report, streams)?;
        Ok(done.report)
    }

    /// Plain rounding: weights alone decide.
    fn plain_block(
        &self,
        modules: &[&Module],
        done: &mut Done,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<(), PipelineError> {
        let importance = self.job.measured_importance();
        for module in modules {
            cancelled(progress, &self.job.work)?;
            let name = &module.scheme.module;
            progress.event(Event::Matrix { module: name });
            let started = Instant::now();
            let weight = float_weight(&self.job.model, &self.job.config, module)?;
            let importance = importance.and_then(|all| all.get(name)).map(Vec::as_slice);
            let matrix = round_freely(self.job, module, &weight, importance)?;
            self.finish(module, &weight, &matrix, Outcome::default(), started, done, progress)?;
            meter.matrix(module, progress);
        }
        Ok(())
    }

    /// A block on calibration text, sequential group by sequential group.
    fn calibrated_block(
        &self,
        number: usize,
        modules: &[&Module],
        streams: &mut Streams,
        done: &mut Done,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<(), PipelineError> {
        let job = self.job;
        let mut block = Block::load(&job.model, &job.config, number)?;
        let original = streams.float.is_some().then(|| block.clone());
        let mut transformed = match job.job.method.transform {
            Transform::None => Transformed::default(),
            kind => transform::search(
                job,
                number,
                &mut block,
                &streams.quantized,
                kind,
                meter,
                progress,
            )?,
        };
        for (site, gain, bias) in transformed.norms.drain(..) {
            block.set_norm(site, gain, bias);
        }
        done.encoded.append(&mut transformed.tensors);
        done.report.sites.append(&mut transformed.reports);
        for &(site, roles) in job.config.groups() {
            cancelled(progress, &job.work)?;
            let group: Vec<&Module> = modules
                .iter()
                .filter(|m| m.role.is_some_and(|role| roles.contains(&role)))
                .copied()
                .collect();
            let in_features = job.config.shape(roles[0]).in_features;
            let rounding = &job.job.method.rounding;
            let mut statistics =
                (!group.is_empty()).then(|| Statistics::new(rounding, &group, in_features));
            let first = block.module(roles[0]);
            let scales = transformed.scales.of(site);
            let fixed = group.iter().any(|m| self.input_scale(m).is_some());
            let mut largest = 0f32;
            streams.inputs(&block, original.as_ref(), site, scales, |seen, meant| {
                if fixed {
                    largest = seen.iter().fold(largest, |most, x| most.max(x.abs()));
                }
                statistics.as_mut().map_or(Ok(()), |s| s.add(first, seen, meant))
            })?;
            for spec in group.iter().filter_map(|m| self.input_scale(m)) {
                // Inputs that are always zero take any step.
                let step = if largest > 0.0 { largest / 127.0 } else { 1.0 };
                done.encoded.push((spec, step.to_le_bytes().to_vec()));
            }
            meter.inputs(site, statistics.is_some(), progress);
            if let Some(statistics) = statistics {
                self.site(
                    site,
                    &group,
                    &statistics,
                    &transformed,
                    &mut block,
                    done,
                    meter,
                    progress,
                )?;
            }
            streams.advance(&block, original.as_ref(), site);
            meter.advance(site, progress);
        }
        Ok(())
    }

    /// The tensor of the fixed step of a matrix's inputs, if the container has one.
    fn input_scale(&self, module: &Module) -> Option<TensorSpec> {
        self.job.job.container.input_scale(&module.scheme.module)
    }

    /// Rounds the matrices that read at a site and puts them into the block.
    fn site(
        &self,
        site: Site,
        group: &[&Module],
        statistics: &Statistics,
        transformed: &Transformed,
        block: &mut Block,
        done: &mut Done,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<(), PipelineError> {
        let job = self.job;
        let prepared = match (statistics, job.job.method.rounding) {
            (Statistics::Gptq { hessian, .. }, Rounding::Gptq { spec, .. }) => {
                let first = block.module(job.config.roles_at(site)[0]);
                Some(prepare_hessian(first, hessian, &spec)?)
            }
            _ => None,
        };
        for (module, role) in group.iter().filter_map(|m| Some((m, m.role?))) {
            cancelled(progress, &job.work)?;
            let name = &module.scheme.module;
            progress.event(Event::Matrix { module: name });
            let started = Instant::now();
            let mut weight = float_weight(&job.model, &job.config, module)?;
            transformed.scales.fold(role, &mut weight, module.scheme.shape.in_features);
            let (matrix, outcome) = match (statistics, &prepared) {
                (Statistics::Gptq { mismatch, .. }, Some(prepared)) => {
                    let (mismatch, share) = (mismatch.as_ref(), job.job.method.mismatch());
                    round_gptq(job, module, &weight, prepared, mismatch, share)?
                }
                (Statistics::Nearest { moments, sample }, _) => {
                    round_by_inputs(job, module, &weight, moments, sample)?
                }
                (Statistics::Gptq { .. }, None) => unreachable!("prepared above"),
            };
            self.finish(module, &weight, &matrix, outcome, started, done, progress)?;
            let bias = match transformed.bias(role) {
                Some(bias) => Some(bias.to_vec()),
                None => job.model.bias(name)?,
            };
            block.set_linear(role, Linear::from_weight(Weight::Quant(matrix), bias));
            meter.matrix(module, progress);
        }
        Ok(())
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
        done.report.matrices.push(report);
        Ok(())
    }

    fn report(&self, blocks: BlockReport, resumed_blocks: usize) -> Report {
        let job = self.job;
        let BlockReport { matrices, sites } = blocks;
        let (bytes_before, bytes_after) = job.bytes();
        let stored: f64 = matrices.iter().map(|m| m.bits_per_weight * m.weights() as f64).sum();
        let weights: usize = matrices.iter().map(MatrixReport::weights).sum();
        let parameters: usize =
            job.model.tensors().map(|t| t.shape.iter().product::<usize>()).sum();
        let calibrated = job.job.method.needs_calibration();
        let calibration = job.job.calibration.as_ref().filter(|_| calibrated);
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
            sites,
        }
    }
}

/// Encoded tensors and reports of a block.
#[derive(Default)]
struct Done {
    encoded: Encoded,
    report: BlockReport,
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
