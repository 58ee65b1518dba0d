//! Time, memory and size before the start; progress while it runs.
//!
//! The arithmetic of every step is known from the shapes. One short matrix product tells how fast this machine is; the share of that speed
//! which each kind of step reaches was measured.

use std::{path::Path, time::Instant};

use fewbit_checkpoint::{Checkpoint, TensorSpec, free_bytes, total_bytes};
use fewbit_format::{BlockType, Granularity, MatrixShape, Scheme};
use fewbit_gptq::{Hessian, Prepared as PreparedHessian, quantize_bytes};
use fewbit_kernels::{Level, linear_f32};
use fewbit_model::{ModelConfig, Role, Site};
use serde::{Deserialize, Serialize};

use crate::{
    Event, ImportanceSource, Job, Module, PipelineError, Prepared, Progress, Rounding,
    round::Statistics, solver, stages::CHUNK_TOKENS,
};

/// What a job will take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Seconds from start to end.
    pub seconds: f64,
    /// Peak resident memory in bytes.
    pub peak_memory: u64,
    /// Bytes of all tensors of the output.
    pub output_bytes: u64,
    /// Most bytes of the work folder.
    pub work_bytes: u64,
    /// Speed of a float matrix product on this machine, by which the time was estimated, in operations per second.
    pub flops: f64,
}

/// The program itself, thread stacks and buffers of products.
const BASE_MEMORY: u64 = 64 << 20;

/// Seconds per weight of plain rounding with its report, on one thread: bound by bookkeeping, not by arithmetic.
const PLAIN_SECONDS: f64 = 2e-8;

/// Seconds per weight of moving zero points, on two threads.
const HALF_QUADRATIC_SECONDS: f64 = 2e-7;

/// Shares of the speed of a float product that the steps reach.
mod share {
    pub(super) const FORWARD: f64 = 0.7;
    pub(super) const HESSIAN: f64 = 0.7;
    /// In double precision, so at most half.
    pub(super) const FACTOR: f64 = 0.25;
    pub(super) const SOLVE: f64 = 0.35;
    /// The parameter search rounds and compares instead of multiplying.
    pub(super) const SEARCH: f64 = 0.15;
    /// Products within groups, a few rows at a time.
    pub(super) const TILES: f64 = 0.3;
}

/// Operations per weight of fitting the parameters of a group.
const FIT: f64 = 900.0;
/// Parameters that clipping compares for each group.
const CLIPS: f64 = 15.0;
/// Columns that are weighed together by clipping, at most.
const TILE: f64 = 128.0;

impl Estimate {
    pub(crate) fn new(
        job: &Job,
        model: &Checkpoint,
        config: &ModelConfig,
        modules: &[Module],
        specs: &[TensorSpec],
    ) -> Self {
        let flops = measure_flops();
        let costs = Costs::new(job, config, modules, flops);
        let output_bytes = total_bytes(specs);
        let copied: u64 = model.tensors().map(|t| t.bytes).sum::<u64>() + 2 * output_bytes;
        // Reading, hashing, writing, reopening: about a gigabyte a second.
        let seconds = costs.total(config) + copied as f64 / 1e9;
        let states = costs.streams() as u64 * costs.tokens as u64 * config.hidden_size as u64 * 4;
        Self {
            seconds,
            peak_memory: peak_memory(job, model, config, modules, costs.tokens),
            output_bytes,
            work_bytes: output_bytes + 2 * states,
            flops,
        }
    }

    /// Refuses a disk that is too small.
    pub(crate) fn check_disk(&self, out: &Path) -> Result<(), PipelineError> {
        let needed = self.output_bytes + self.work_bytes;
        match free_bytes(out) {
            Some(free) if free < needed => {
                Err(PipelineError::DiskFull { folder: out.into(), needed, free })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes in use at once, at the worst moment.
fn peak_memory(
    job: &Job,
    model: &Checkpoint,
    config: &ModelConfig,
    modules: &[Module],
    tokens: usize,
) -> u64 {
    let tensor = |name: &str| model.tensor(name).map_or(0, |t| t.bytes);
    let largest = model.tensors().map(|t| t.bytes).max().unwrap_or(0);
    let quantized = |block: usize| modules.iter().filter(move |m| m.block == block);
    // Codes (a byte each), dequantized values for the report, packed bytes.
    let result = |shape: MatrixShape| (shape.len() * (1 + 4 + 2)) as u64;
    let ends = config.end_modules().map(|module| tensor(&format!("{module}.weight")));
    let ends = ends.into_iter().max().unwrap_or(0) * 2;
    let hidden = config.hidden_size as u64;
    let block_bytes = (0..config.n_layers)
        .map(|b| quantized(b).map(|m| tensor(&format!("{}.weight", m.scheme.module))).sum::<u64>())
        .max()
        .unwrap_or(0);
    let widest = config.intermediate_size.max(config.hidden_size) as u64;
    let chunk = CHUNK_TOKENS.min(tokens) as u64;
    if job.calibration.is_none() || !job.method.needs_calibration() {
        let largest_matrix = modules.iter().map(|m| m.scheme.shape.len()).max().unwrap_or(0);
        let matrix = largest_matrix as u64 * 4 + result(MatrixShape::new(1, largest_matrix));
        let rounding = 2 * largest.max(matrix);
        let (importance, measuring) = match job.importance {
            None => (0, 0),
            Some(ImportanceSource::Given(_)) => (importance_bytes(modules), 0),
            Some(ImportanceSource::Measured) => {
                let states = tokens as u64 * hidden * 4;
                let mix =
                    tokens as u64 * config.shape(Role::AttentionOutput).in_features as u64 * 4;
                let forward = chunk * (4 * hidden + 4 * widest) * 4;
                (importance_bytes(modules), states + (mix + block_bytes + forward).max(ends))
            }
        };
        return BASE_MEMORY + importance + rounding.max(measuring);
    }
    let streams = if job.method.mismatch() > 0.0 { 2 } else { 1 };
    let states = streams * tokens as u64 * hidden * 4;
    let mix = streams * tokens as u64 * config.shape(Role::AttentionOutput).in_features as u64 * 4;
    let encoded: u64 = quantized(0).map(|m| m.scheme.shape.len() as u64).sum();
    let groups = |role| {
        let module = quantized(0).find(|m| m.role == Some(role));
        let scheme = module.map_or(Scheme::Float, |m| m.scheme.scheme);
        let granularity = solver::granularity(&scheme).unwrap_or(Granularity::Channel);
        (granularity, solver::params_bytes(&scheme))
    };
    let statistics =
        |n: usize| Statistics::bytes(&job.method.rounding, n, CHUNK_TOKENS.min(tokens)) as u64;
    let solving = config.groups().iter().map(|&(_, roles)| {
        let n = config.shape(roles[0]).in_features;
        let matrices = roles.iter().map(|&role| {
            let (shape, (granularity, params)) = (config.shape(role), groups(role));
            (4 * shape.len()) as u64
                + quantize_bytes(shape, granularity, params) as u64
                + result(shape)
        });
        let (factor, factoring) = match job.method.rounding {
            Rounding::Gptq { .. } => (PreparedHessian::bytes(n), PreparedHessian::peak_bytes(n)),
            Rounding::Nearest | Rounding::HalfQuadratic(_) => (0, 0),
        };
        let solve = factor as u64 + matrices.max().unwrap_or(0);
        statistics(n) + solve.max(factoring as u64)
    });
    let forward = streams * chunk * (4 * hidden + 4 * widest) * 4
        + config
            .groups()
            .iter()
            .map(|&(_, roles)| statistics(config.shape(roles[0]).in_features))
            .max()
            .unwrap_or(0);
    let solver = |n: usize| match job.method.rounding {
        Rounding::Gptq { .. } => Hessian::bytes(n) + PreparedHessian::peak_bytes(n),
        Rounding::Nearest | Rounding::HalfQuadratic(_) => 0,
    };
    let solver = config.groups().iter().map(|(_, r)| solver(config.shape(r[0]).in_features));
    let solver = solver.max().unwrap_or(0) as u64;
    let search = |(_, sample): (u32, usize)| solver + search_memory(config, sample.min(tokens));
    let search = job.method.search().map_or(0, search);
    let block = states
        + mix
        + streams * block_bytes
        + encoded
        + solving.max().unwrap_or(0).max(forward).max(search);
    BASE_MEMORY + block.max(ends + states).max(2 * largest)
}

/// Bytes of an importance for each input of each matrix.
fn importance_bytes(modules: &[Module]) -> u64 {
    modules.iter().map(|m| 4 * m.scheme.shape.in_features as u64).sum()
}

/// Bytes of a search on this many tokens: their states, the inputs and outputs of a unit in float and rounded, its inner values, and its matrices twice.
fn search_memory(config: &ModelConfig, tokens: usize) -> u64 {
    let widest = config.intermediate_size.max(config.n_heads * config.head_dim);
    let values = tokens * (4 * config.hidden_size + 3 * widest);
    let site = |roles: &[Role]| -> usize { roles.iter().map(|&r| config.shape(r).len()).sum() };
    let matrices = config.groups().iter().map(|(_, roles)| 3 * site(roles)).max().unwrap_or(0);
    4 * (values + matrices) as u64
}

/// Seconds of each step.
pub(crate) struct Costs {
    tokens: usize,
    flops: f64,
    /// Parameters of the layers at each site, per block.
    calibrated: bool,
    /// Whether importances are measured first.
    measured: bool,
    /// Whether the float model runs beside the quantized one.
    mismatch: bool,
    window: usize,
    /// Passes of refinement, if there is a solver.
    passes: Option<u32>,
    /// Candidates of a transform at each site, and tokens they are tried on.
    search: Option<(u32, usize)>,
    /// Whether zero points are moved step by step.
    half_quadratic: bool,
    modules: Vec<Module>,
}

impl Costs {
    fn new(job: &Job, _config: &ModelConfig, modules: &[Module], flops: f64) -> Self {
        let spec = job.method.gptq_spec();
        let measured = matches!(job.importance, Some(ImportanceSource::Measured));
        let calibrated = job.method.needs_calibration();
        let calibration = job.calibration.as_ref().filter(|_| calibrated || measured);
        Self {
            tokens: calibration.map_or(0, |c| c.tokens().len()),
            window: calibration.map_or(0, |c| c.window()),
            calibrated: calibrated && calibration.is_some(),
            measured,
            flops,
            mismatch: job.method.mismatch() > 0.0,
            passes: spec.map(|s| s.refine_passes),
            search: job.method.search(),
            half_quadratic: matches!(job.method.rounding, Rounding::HalfQuadratic(_)),
            modules: modules.to_vec(),
        }
    }

    /// Computing the inputs of a site for all tokens in one stream.
    fn forward(&self, config: &ModelConfig, site: Site) -> f64 {
        let weights =
            |roles: &[Role]| -> f64 { roles.iter().map(|&r| config.shape(r).len() as f64).sum() };
        let products = match site {
            Site::AttentionInput | Site::MlpInput => 0.0,
            Site::AttentionMix => {
                let heads = (config.n_heads * config.head_dim) as f64;
                weights(config.roles_at(Site::AttentionInput)) + 2.0 * heads * self.window as f64
            }
            Site::MlpMix => weights(config.roles_at(Site::MlpInput)),
        };
        2.0 * self.tokens as f64 * products / (self.flops * share::FORWARD)
    }

    /// Computing the inputs of a site for all tokens, and their Hessian.
    fn inputs(&self, config: &ModelConfig, site: Site, hessian: bool) -> f64 {
        if !self.calibrated {
            return 0.0;
        }
        let tokens = self.tokens as f64;
        let n = config.shape(config.roles_at(site)[0]).in_features as f64;
        // The mismatch is no symmetric product: twice the work.
        let products_of_inputs = if self.mismatch { 3.0 } else { 1.0 };
        let hessian = match (hessian, self.passes) {
            (false, _) => 0.0,
            (true, Some(_)) => products_of_inputs * tokens * n * n / (self.flops * share::HESSIAN),
            (true, None) => tokens * n * 2.0 * TILE / (self.flops * share::TILES),
        };
        self.streams() * self.forward(config, site) + hessian
    }

    /// Moving the states past a site.
    fn advance(&self, config: &ModelConfig, site: Site) -> f64 {
        if self.calibrated { self.streams() * self.onward(config, site) } else { 0.0 }
    }

    /// Moving the states of one stream past a site.
    fn onward(&self, config: &ModelConfig, site: Site) -> f64 {
        let products = match site {
            Site::AttentionInput | Site::MlpInput => 0,
            Site::AttentionMix => config.shape(Role::AttentionOutput).len(),
            Site::MlpMix => {
                let inner = config.roles_at(Site::MlpInput).iter().chain(&[Role::Down]);
                inner.map(|&r| config.shape(r).len()).sum()
            }
        };
        2.0 * self.tokens as f64 * products as f64 / (self.flops * share::FORWARD)
    }

    fn streams(&self) -> f64 {
        if self.mismatch { 2.0 } else { 1.0 }
    }

    /// Factoring, shared by the matrices of a site.
    fn factor(&self, module: &Module) -> f64 {
        let site = module.role.map(Role::site);
        let shares = |m: &&Module| m.block == module.block && m.role.map(Role::site) == site;
        let sharing = self.modules.iter().filter(shares).count();
        let n = module.scheme.shape.in_features as f64;
        n.powi(3) / 3.0 / sharing as f64 / (self.flops * share::FACTOR)
    }

    /// Rounding a matrix.
    fn matrix(&self, module: &Module) -> f64 {
        if !module.is_quantized() {
            return 0.0;
        }
        let shape = module.scheme.shape;
        if let Scheme::Block(block_type) = module.scheme.scheme {
            return shape.len() as f64 * block_seconds(block_type);
        }
        let (len, n) = (shape.len() as f64, shape.in_features as f64);
        if module.role.is_some() && self.half_quadratic {
            return len * HALF_QUADRATIC_SECONDS;
        }
        if !self.calibrated || module.role.is_none() {
            return len * PLAIN_SECONDS;
        }
        let search = len * FIT / (self.flops * share::SEARCH);
        match self.passes {
            Some(passes) => {
                let loops = len * n * (1.0 + 2.0 * f64::from(1 + passes));
                loops / (self.flops * share::SOLVE) + search + self.factor(module)
            }
            None => search + len * CLIPS * 2.0 * TILE / (self.flops * share::TILES),
        }
    }

    /// Trying one candidate at a site: rounding its matrices, and the unit around it on some tokens.
    fn candidate(&self, config: &ModelConfig, site: Site) -> f64 {
        let len = |roles: &[Role]| -> usize { roles.iter().map(|&r| config.shape(r).len()).sum() };
        let roles = config.roles_at(site);
        let unit = match site {
            Site::AttentionInput => {
                len(roles)
                    + len(&[Role::AttentionOutput])
                    + 2 * config.n_heads * config.head_dim * self.window
            }
            Site::MlpInput => len(roles) + len(&[Role::Down]),
            Site::AttentionMix | Site::MlpMix => len(roles),
        };
        let tokens = self.search.map_or(0, |(_, sample)| sample.min(self.tokens));
        let solve = if self.passes.is_some() {
            let n = roles.first().map_or(0, |&role| config.shape(role).in_features) as f64;
            0.5 * tokens as f64 * n * n / (self.flops * share::HESSIAN)
                + n.powi(3) / 3.0 / (self.flops * share::FACTOR)
                + 3.0 * len(roles) as f64 * n / (self.flops * share::SOLVE)
        } else {
            0.0
        };
        solve
            + len(roles) as f64 * FIT / (self.flops * share::SEARCH)
            + 2.0 * (tokens * unit) as f64 / (self.flops * share::FORWARD)
    }

    /// Choosing all scales of a block.
    fn search(&self, config: &ModelConfig) -> f64 {
        let candidates = self.search.map_or(0, |(candidates, _)| candidates);
        let sites = config.groups().iter().map(|&(site, _)| site);
        let sites = sites.filter(|&site| config.producer(site).is_some());
        let sites = sites.map(|site| self.candidate(config, site));
        f64::from(candidates) * sites.sum::<f64>()
    }

    fn total(&self, config: &ModelConfig) -> f64 {
        let sites = || config.groups().iter().map(|&(site, _)| site);
        let measuring = match self.measured {
            true => sites().map(|s| self.forward(config, s) + self.onward(config, s)).sum::<f64>(),
            false => 0.0,
        };
        let measuring = config.n_layers as f64 * measuring;
        measuring + (0..=config.n_layers).map(|block| self.block(config, block)).sum::<f64>()
    }

    /// A block, or after the last one embedding and head.
    fn block(&self, config: &ModelConfig, block: usize) -> f64 {
        let sites = config
            .groups()
            .iter()
            .take_while(|_| block < config.n_layers)
            .map(|&(site, _)| self.inputs(config, site, true) + self.advance(config, site));
        let matrices = self.modules.iter().filter(|m| m.block == block).map(|m| self.matrix(m));
        let search = if block < config.n_layers { self.search(config) } else { 0.0 };
        search + sites.sum::<f64>() + matrices.sum::<f64>()
    }
}

/// Counts what is done, in estimated seconds.
pub(crate) struct Meter<'a> {
    config: &'a ModelConfig,
    costs: Costs,
    done: f64,
    total: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(prepared: &'a Prepared, resumed_blocks: usize) -> Self {
        let config = &prepared.config;
        let costs = Costs::new(&prepared.job, config, &prepared.modules, prepared.estimate().flops);
        let total = (resumed_blocks..=config.n_layers).map(|b| costs.block(config, b)).sum();
        Self { config, costs, done: 0.0, total }
    }

    pub(crate) fn inputs(&mut self, site: Site, hessian: bool, progress: &mut dyn Progress) {
        self.step(self.costs.inputs(self.config, site, hessian), progress);
    }

    pub(crate) fn advance(&mut self, site: Site, progress: &mut dyn Progress) {
        self.step(self.costs.advance(self.config, site), progress);
    }

    /// One candidate of a search was tried.
    pub(crate) fn candidate(&mut self, site: Site, progress: &mut dyn Progress) {
        self.step(self.costs.candidate(self.config, site), progress);
    }

    pub(crate) fn matrix(&mut self, module: &Module, progress: &mut dyn Progress) {
        self.step(self.costs.matrix(module), progress);
    }

    fn step(&mut self, seconds: f64, progress: &mut dyn Progress) {
        self.done += seconds;
        let fraction = (self.done / self.total).min(1.0);
        progress.event(Event::Advanced { fraction });
    }
}

/// Seconds per weight of encoding blocks with its report, on one thread: those that search for scales take longer.
fn block_seconds(block_type: BlockType) -> f64 {
    match block_type.weights() {
        32 | 64 => PLAIN_SECONDS,
        _ => 4.0 * PLAIN_SECONDS,
    }
}

/// Operations per second of a float product, from a few milliseconds of one.
fn measure_flops() -> f64 {
    let shape = MatrixShape::new(512, 512);
    let n_tokens = 512;
    let x: Vec<f32> = (0..n_tokens * shape.in_features).map(|i| (i % 61) as f32 - 30.0).collect();
    let w: Vec<f32> = (0..shape.len()).map(|i| (i % 67) as f32 - 33.0).collect();
    let mut out = vec![0.0; n_tokens * shape.out_features];
    let fastest = (0..4)
        .map(|_| {
            let started = Instant::now();
            linear_f32(Level::detect(), &mut out, &x, n_tokens, &w, shape);
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    2.0 * (n_tokens * shape.len()) as f64 / fastest.max(1e-6)
}
