//! AWQ in a block: the scales of each site, chosen by the output of the unit around it.
//!
//! ```text
//! for each site that can be scaled, on some windows of calibration text, in the float block:
//!     x ← inputs of the site; y ← output of attention (query·key·value, output) or of the MLP (gate·up, down)
//!     for each candidate s:  Ŵ ← round(W·s) / s;  loss ← ‖y(Ŵ) − y(W)‖² / ‖y(W)‖²
//!     the best s, corrected for the rounding of what it is folded into
//! ```
//!
//! The states are those behind the blocks quantized before. Where GPTQ is to follow, it also rounds the candidates, without refinement: what is good for rounding
//! to nearest often is not for GPTQ, which makes up for much of what scales would. Then half of the text gives the Hessian and the other half the loss.

use std::borrow::Cow;

use fewbit_awq::{
    Candidate, ChannelStatistics, Folded, Gain, Rule, Scales, candidates, choose, round_fitted,
    smoothing, weight_magnitude, weight_maxima,
};
use fewbit_checkpoint::{Dtype, TensorSpec, Weight};
use fewbit_format::{Granularity, IntGrid, OffsetGrid, Scheme, bf16, f16};
use fewbit_gptq::{GptqSpec, Hessian, InputPrecision};
use fewbit_model::{Block, Linear, Producer, Role, Site};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Event, FoldedTensor, Module, PipelineError, Prepared, Progress, Rounding, SiteReport,
    SmoothQuantSpec, Transform,
    estimate::Meter,
    fingerprint::hash_values,
    folding::{BlockScales, Fold, folds},
    job::cancelled,
    round::{
        float_weight, least_zero_point, prepare_hessian, round_freely, round_gptq, round_plain,
    },
    run::Encoded,
    solver,
    stages::States,
};

/// What a transform leaves of a block.
#[derive(Debug, Default)]
pub(crate) struct Transformed {
    pub(crate) scales: BlockScales,
    /// Gains and biases that changed, or could have, as the output will hold them.
    pub(crate) tensors: Encoded,
    /// Norms, for the block in memory: what a file stores of gain and bias.
    pub(crate) norms: Vec<(Site, Vec<f32>, Option<Vec<f32>>)>,
    biases: Vec<(Role, Vec<f32>)>,
    pub(crate) reports: Vec<SiteReport>,
}

/// Searches the scales of a block. `block` is in float, and is again at the end.
pub(crate) fn search(
    job: &Prepared,
    number: usize,
    block: &mut Block,
    states: &States,
    transform: Transform,
    meter: &mut Meter,
    progress: &mut dyn Progress,
) -> Result<Transformed, PipelineError> {
    let tokens = job.job.method.search().map_or(0, |(_, tokens)| tokens);
    let mut sample = states.sample(tokens);
    let mut transformed = Transformed::default();
    let folds = folds(&job.model, &job.config, &job.modules, number).into_iter();
    let mut folds = folds.filter(|fold| transform.scales(fold.producer)).peekable();
    for &(site, _) in job.config.groups() {
        cancelled(progress, &job.work)?;
        let inputs: Vec<Array2<f32>> =
            (0..sample.n_chunks()).map(|c| sample.input(c, block, site).to_owned()).collect();
        if let Some(fold) = folds.next_if(|fold| fold.site == site) {
            let mut site = SiteSearch::new(job, number, block, &fold, &sample, &inputs)?;
            let choice = site.run(transform, meter, progress)?;
            let report = transformed.take(job, number, fold, choice)?;
            progress.event(Event::SiteDone(&report));
            transformed.reports.push(report);
        }
        sample.advance(block, site);
    }
    Ok(transformed)
}

impl Transformed {
    /// The bias of a layer, if that was changed.
    pub(crate) fn bias(&self, role: Role) -> Option<&[f32]> {
        self.biases.iter().find(|(r, _)| *r == role).map(|(_, bias)| &bias[..])
    }

    /// Folds the scales chosen for a site into the float tensors before it, and keeps both.
    ///
    /// The first tensor decides what the scales are in its storage type. What a norm adds is then divided by these and rounded: by as much as its own
    /// type rounds, it is not the same.
    fn take(
        &mut self,
        job: &Prepared,
        number: usize,
        fold: Fold,
        choice: fewbit_awq::Choice,
    ) -> Result<SiteReport, PipelineError> {
        let mut scales = choice.candidate.scales;
        let mut folded_tensors = Vec::new();
        let mut folded_values = Vec::new();
        for (number, tensor) in fold.tensors.iter().enumerate() {
            let info = job.model.tensor(tensor).expect("it was named because it is there");
            let mut stored = job.model.read_f32(tensor)?;
            let part = fold.rows(&mut stored, 1);
            let round = storage(info.dtype);
            if number == 0 {
                let folded = Folded::new(part, fold.gain, &fold.map, &scales, round);
                scales = folded.scales;
                part.copy_from_slice(&folded.stored);
            } else {
                scales.divide_rows(&fold.map, part);
                part.iter_mut().for_each(|value| *value = round(*value));
            }
            self.tensors.push((TensorSpec::from(info), bytes(&stored, info.dtype)));
            let one_plus = number == 0 && fold.gain == Gain::OnePlus;
            let values_hash = match one_plus {
                true => hash_values(&plus_one(stored.clone())),
                false => hash_values(&stored),
            };
            folded_tensors.push(FoldedTensor { name: tensor.clone(), values_hash, one_plus });
            folded_values.push(stored);
        }
        let mut values = folded_values.into_iter();
        if let Some(first) = values.next() {
            match fold.producer {
                Producer::Norm => self.norms.push((fold.site, first, values.next())),
                Producer::Linear(role) => self.biases.push((role, first)),
            }
        }
        let (smallest, largest) = scales.extremes();
        let report = SiteReport {
            block: number,
            site: fold.roles.iter().map(|&r| last(&job.config.module(number, r))).collect(),
            folded_into: match fold.producer {
                Producer::Norm => fold.tensors[0].clone(),
                Producer::Linear(role) => job.config.module(number, role),
            },
            ratio: match choice.candidate.rule {
                Rule::Activations { ratio }
                | Rule::ActivationsAndWeights { ratio }
                | Rule::Maxima { strength: ratio } => ratio,
                _ => 0.0,
            },
            by_weights: matches!(choice.candidate.rule, Rule::ActivationsAndWeights { .. }),
            smallest,
            largest,
            loss_before: choice.loss_before,
            loss_after: choice.loss_after,
            tensors: folded_tensors,
        };
        self.scales.push(fold, scales);
        Ok(report)
    }
}

/// The search at one site.
struct SiteSearch<'a> {
    job: &'a Prepared,
    block: &'a mut Block,
    site: Site,
    sample: &'a States,
    inputs: &'a [Array2<f32>],
    modules: Vec<(&'a Module, Vec<f32>)>,
    statistics: ChannelStatistics,
    fold: &'a Fold,
    /// What rounds the candidates, if not rounding to nearest.
    solver: Option<GptqSpec>,
}

impl<'a> SiteSearch<'a> {
    fn new(
        job: &'a Prepared,
        number: usize,
        block: &'a mut Block,
        fold: &'a Fold,
        sample: &'a States,
        inputs: &'a [Array2<f32>],
    ) -> Result<Self, PipelineError> {
        let reads =
            |m: &&Module| m.block == number && m.role.is_some_and(|r| fold.roles.contains(&r));
        let modules = job
            .modules
            .iter()
            .filter(reads)
            .map(|m| Ok((m, float_weight(&job.model, &job.config, m)?)))
            .collect::<Result<Vec<_>, PipelineError>>()?;
        let mut statistics = ChannelStatistics::new(fold.map.n_consumed());
        let module = || block.module(fold.roles[0]).to_owned();
        for x in inputs {
            let x = x.as_slice().expect("standard layout");
            statistics.add(x).map_err(|source| PipelineError::Awq { module: module(), source })?;
        }
        let site = fold.site;
        let solver = job.job.method.gptq_spec();
        let solver = solver.map(|spec| GptqSpec { refine_passes: 0, ..spec });
        Ok(Self { job, block, site, sample, inputs, modules, statistics, fold, solver })
    }

    fn run(
        &mut self,
        transform: Transform,
        meter: &mut Meter,
        progress: &mut dyn Progress,
    ) -> Result<fewbit_awq::Choice, PipelineError> {
        let candidates = self.candidates(transform)?;
        let wanted: Vec<Array2<f32>> = self.outputs(None);
        let power: f64 = wanted.iter().map(|y| squares(y.view(), None)).sum();
        let linears: Vec<Linear> =
            self.fold.roles.iter().map(|&role| self.block.linear(role).clone()).collect();
        let choice = choose(candidates, |scales| {
            cancelled(progress, &self.job.work)?;
            self.place(scales)?;
            let inputs_too = matches!(transform, Transform::SmoothQuant(_));
            let outputs = self.outputs(inputs_too.then_some(scales));
            let errors = outputs.iter().zip(&wanted);
            let loss: f64 = errors.map(|(y, wanted)| squares(y.view(), Some(wanted))).sum();
            meter.candidate(self.site, progress);
            Ok(if power > 0.0 { loss / power } else { loss })
        });
        for (&role, linear) in self.fold.roles.iter().zip(linears) {
            self.block.set_linear(role, linear);
        }
        choice
    }

    fn candidates(&self, transform: Transform) -> Result<Vec<Candidate>, PipelineError> {
        Ok(match transform {
            Transform::None => vec![],
            Transform::Awq(spec) => {
                let mut mean_abs = self.statistics.mean_abs();
                self.fold.map.tie(&mut mean_abs);
                let magnitude = if spec.weights { Some(self.magnitude()?) } else { None };
                candidates(&mean_abs, magnitude.as_deref(), spec.n_ratios)
            }
            Transform::SmoothQuant(spec) => {
                let matrices: Vec<_> =
                    self.modules.iter().map(|(m, w)| (&w[..], m.scheme.shape)).collect();
                let maxima = weight_maxima(&matrices).map_err(|source| {
                    let module = self.block.module(self.fold.roles[0]).into();
                    PipelineError::Awq { module, source }
                })?;
                let inputs = self.statistics.max_abs();
                match spec.strength {
                    None => smoothing(&inputs, &maxima, &SmoothQuantSpec::STRENGTHS),
                    Some(strength) => smoothing(&inputs, &maxima, &[strength.into()]),
                }
            }
        })
    }

    /// Mean relative size of each column, tied as the scales have to be.
    fn magnitude(&self) -> Result<Vec<f64>, PipelineError> {
        let matrices: Vec<_> = self.modules.iter().map(|(m, w)| (&w[..], m.scheme.shape)).collect();
        let scheme = self.modules.first().map(|(m, _)| m.scheme.scheme);
        let granularity = scheme.as_ref().and_then(solver::granularity);
        let granularity = granularity.unwrap_or(Granularity::group(32));
        let mut magnitude = weight_magnitude(&matrices, granularity).map_err(|source| {
            let module = self.block.module(self.fold.roles[0]).into();
            PipelineError::Awq { module, source }
        })?;
        self.fold.map.tie(&mut magnitude);
        Ok(magnitude)
    }

    /// Puts the rounded matrices under these scales into the block.
    fn place(&mut self, scales: &Scales) -> Result<(), PipelineError> {
        let squares = self.statistics.mean_square();
        let importance: Vec<f32> = squares
            .iter()
            .zip(scales.as_slice())
            .map(|(x, s)| (x / f64::from(*s).powi(2)) as f32)
            .collect();
        let hessian = self.solver.map(|spec| self.hessian(spec.inputs, scales)).transpose()?;
        let prepared = match (&hessian, &self.solver) {
            (Some(hessian), Some(spec)) => {
                Some(prepare_hessian(self.block.module(self.fold.roles[0]), hessian, spec)?)
            }
            _ => None,
        };
        for (module, weight) in &self.modules {
            let mut values = weight.clone();
            scales.multiply_columns(&mut values);
            let mut values = match &prepared {
                None => rounded(self.job, module, values, &importance)?,
                Some(prepared) => {
                    round_gptq(self.job, module, &values, prepared, None, 0.0)?.0.dequantize()
                }
            };
            scales.divide_columns(&mut values);
            let (shape, dtype) = (module.scheme.shape, Dtype::F32);
            let weight = Weight::Float { shape, dtype, data: values };
            let bias = self.job.model.bias(&module.scheme.module)?;
            let role = module.role.expect("a layer of a block");
            self.block.set_linear(role, Linear::from_weight(weight, bias));
        }
        Ok(())
    }

    /// The Hessian of scaled inputs, of all chunks that losses are not measured on.
    fn hessian(&self, inputs: InputPrecision, scales: &Scales) -> Result<Hessian, PipelineError> {
        let mut hessian = Hessian::with_inputs(self.fold.map.n_consumed(), inputs);
        for (chunk, x) in self.inputs.iter().enumerate() {
            if self.judges(chunk) && self.inputs.len() > 1 {
                continue;
            }
            let mut x = x.as_slice().expect("standard layout").to_vec();
            scales.divide_columns(&mut x);
            let module = || self.block.module(self.fold.roles[0]).to_owned();
            hessian.add(&x).map_err(|source| PipelineError::Gptq { module: module(), source })?;
        }
        Ok(hessian)
    }

    /// Whether losses are measured on a chunk.
    fn judges(&self, chunk: usize) -> bool {
        self.solver.is_none() || self.inputs.len() == 1 || chunk % 2 == 1
    }

    /// What the unit around the site adds to the states, for each chunk that losses are measured on. Under `rounded`, inputs over these scales are rounded
    /// to 8 bits, token by token.
    fn outputs(&self, rounded: Option<&Scales>) -> Vec<Array2<f32>> {
        let block = &*self.block;
        let output = |(chunk, x): (usize, &Array2<f32>)| {
            let x = match rounded {
                Some(scales) => Cow::Owned(eight_bits(x, scales)),
                None => Cow::Borrowed(x),
            };
            let mut h = Array2::zeros((x.nrows(), self.sample.width()));
            match self.site {
                Site::AttentionInput => {
                    let y = block.attention_mix(x.view(), self.sample.seq_lens(chunk));
                    block.attention_output(y.view(), &mut h);
                }
                Site::AttentionMix => block.attention_output(x.view(), &mut h),
                Site::MlpInput => block.mlp_output(block.mlp_mix(x.view()).view(), &mut h),
                Site::MlpMix => block.mlp_output(x.view(), &mut h),
            }
            h
        };
        self.inputs
            .iter()
            .enumerate()
            .filter(|(chunk, _)| self.judges(*chunk))
            .map(output)
            .collect()
    }
}

/// The values of a rounded matrix, as nearly as a search needs them.
fn rounded(
    job: &Prepared,
    module: &Module,
    weight: Vec<f32>,
    importance: &[f32],
) -> Result<Vec<f32>, PipelineError> {
    let (shape, name) = (module.scheme.shape, &module.scheme.module);
    if matches!(job.job.method.rounding, Rounding::HalfQuadratic(_)) {
        return Ok(round_freely(job, module, &weight, None)?.dequantize());
    }
    match module.scheme.scheme {
        Scheme::Int(scheme) => {
            let grid = IntGrid::new(scheme).with_least_zero_point(least_zero_point(job, module));
            round_fitted(&weight, shape, Some(importance), &grid, scheme.granularity)
                .map_err(|source| PipelineError::Awq { module: name.clone(), source })
        }
        Scheme::Offset(scheme) => {
            let (grid, groups) = (OffsetGrid::new(scheme), Granularity::Group(scheme.group_size));
            round_fitted(&weight, shape, Some(importance), &grid, groups)
                .map_err(|source| PipelineError::Awq { module: name.clone(), source })
        }
        _ => Ok(round_plain(job, module, &weight, Some(importance))?.dequantize()),
    }
}

/// Inputs as 8-bit layers see them, times the scales again: each token over its largest magnitude in 127 steps.
fn eight_bits(x: &Array2<f32>, scales: &Scales) -> Array2<f32> {
    let mut x = x.clone();
    let values = x.as_slice_mut().expect("standard layout");
    scales.divide_columns(values);
    for token in values.chunks_mut(scales.len().max(1)) {
        let most = token.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let step = if most > 0.0 { most / 127.0 } else { 1.0 };
        token.iter_mut().for_each(|x| *x = (*x / step).round_ties_even() * step);
    }
    scales.multiply_columns(values);
    x
}

/// Σ (y − wanted)², row by row, rows in order.
fn squares(y: ArrayView2<'_, f32>, wanted: Option<&Array2<f32>>) -> f64 {
    let width = y.ncols().max(1);
    let y = y.as_slice().expect("standard layout");
    let wanted = wanted.map(|w| w.as_slice().expect("standard layout"));
    let rows: Vec<f64> = y
        .par_chunks(width)
        .enumerate()
        .map(|(row, y)| match wanted {
            None => y.iter().map(|&y| f64::from(y).powi(2)).sum(),
            Some(wanted) => {
                let wanted = &wanted[row * width..][..width];
                y.iter().zip(wanted).map(|(y, w)| f64::from(y - w).powi(2)).sum()
            }
        })
        .collect();
    rows.into_iter().sum()
}

/// One more than each value: what Gemma's norms multiply by.
pub(crate) fn plus_one(mut values: Vec<f32>) -> Vec<f32> {
    values.iter_mut().for_each(|value| *value += 1.0);
    values
}

/// Rounding to the type that a file stores.
fn storage(dtype: Dtype) -> fn(f32) -> f32 {
    match dtype {
        Dtype::F16 => |v| f16::from_f32(v).to_f32(),
        Dtype::BF16 => |v| bf16::from_f32(v).to_f32(),
        _ => |v| v,
    }
}

/// Values of a type that holds them exactly, as a file stores them.
pub(crate) fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Last part of a module's name.
fn last(module: &str) -> String {
    module.rsplit('.').next().unwrap_or(module).to_owned()
}

#[cfg(test)]
mod tests;
