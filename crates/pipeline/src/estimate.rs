//! Time, memory and size before the start; progress while it runs.
//!
//! The arithmetic of every step is known from the shapes. One short matrix product tells how fast this machine is; the share of that speed
//! which each kind of step reaches was measured.

use std::{path::Path, time::Instant};

use fewbit_checkpoint::{Checkpoint, TensorSpec, free_bytes, total_bytes};
use fewbit_format::{BlockType, Granularity, MatrixShape, Range, Scheme};
use fewbit_gptq::{Hessian, Mismatch, Prepared as PreparedHessian, quantize_bytes};
use fewbit_kernels::{Level, linear_f32};
use fewbit_model::{ModelConfig, Role, SEQUENTIAL_GROUPS, Site};
use serde::{Deserialize, Serialize};

use crate::{Event, Job, Method, Module, PipelineError, Prepared, Progress, stages::CHUNK_TOKENS};

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
const BASE_MEMORY: u64 = 48 << 20;

/// Seconds per weight of plain rounding with its report, on one thread: bound by bookkeeping, not by arithmetic.
const PLAIN_SECONDS: f64 = 2e-8;

/// Shares of the speed of a float product that the steps reach.
mod share {
    pub(super) const FORWARD: f64 = 0.7;
    pub(super) const HESSIAN: f64 = 0.7;
    /// In double precision, so at most half.
    pub(super) const FACTOR: f64 = 0.25;
    pub(super) const SOLVE: f64 = 0.35;
    /// The parameter search rounds and compares instead of multiplying.
    pub(super) const SEARCH: f64 = 0.15;
}

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
    if job.calibration.is_none() || matches!(job.method, Method::RoundToNearest) {
        let largest_matrix = modules.iter().map(|m| m.scheme.shape.len()).max().unwrap_or(0);
        let matrix = largest_matrix as u64 * 4 + result(MatrixShape::new(1, largest_matrix));
        return BASE_MEMORY + 2 * largest.max(matrix);
    }
    let ends = tensor("model.embed_tokens.weight").max(tensor("lm_head.weight")) * 2;
    let hidden = config.hidden_size as u64;
    let streams = match job.method {
        Method::Gptq { mismatch, .. } if mismatch > 0.0 => 2,
        _ => 1,
    };
    let states = streams * tokens as u64 * hidden * 4;
    let mix = streams * tokens as u64 * config.shape(Role::AttentionOutput).in_features as u64 * 4;
    let block_bytes = (0..config.n_layers)
        .map(|b| quantized(b).map(|m| tensor(&format!("{}.weight", m.scheme.module))).sum::<u64>())
        .max()
        .unwrap_or(0);
    let encoded: u64 = quantized(0).map(|m| m.scheme.shape.len() as u64).sum();
    let chunk = CHUNK_TOKENS.min(tokens) as u64;
    let granularity = |role| {
        let scheme = quantized(0).find(|m| m.role == Some(role)).and_then(Module::int_scheme);
        scheme.map_or(Granularity::Channel, |s| s.granularity)
    };
    let statistics = |n: usize| {
        let mismatch = if streams == 2 { Mismatch::bytes(n, CHUNK_TOKENS.min(tokens)) } else { 0 };
        (Hessian::bytes(n) + mismatch) as u64
    };
    let solving = SEQUENTIAL_GROUPS.iter().map(|&(_, roles)| {
        let n = config.shape(roles[0]).in_features;
        let matrices = roles.iter().map(|&role| {
            let shape = config.shape(role);
            (4 * shape.len()) as u64
                + quantize_bytes(shape, granularity(role)) as u64
                + result(shape)
        });
        let solve = PreparedHessian::bytes(n) as u64 + matrices.max().unwrap_or(0);
        statistics(n) + solve.max(PreparedHessian::peak_bytes(n) as u64)
    });
    let widest = config.intermediate_size.max(config.hidden_size) as u64;
    let forward = streams * chunk * (4 * hidden + 4 * widest) * 4
        + SEQUENTIAL_GROUPS
            .iter()
            .map(|&(_, roles)| statistics(config.shape(roles[0]).in_features))
            .max()
            .unwrap_or(0);
    let block =
        states + mix + streams * block_bytes + encoded + solving.max().unwrap_or(0).max(forward);
    BASE_MEMORY + block.max(ends + states).max(2 * largest)
}

/// Seconds of each step.
pub(crate) struct Costs {
    tokens: usize,
    flops: f64,
    /// Parameters of the layers at each site, per block.
    calibrated: bool,
    /// Whether the float model runs beside the quantized one.
    mismatch: bool,
    window: usize,
    search: bool,
    passes: u32,
    modules: Vec<Module>,
}

impl Costs {
    fn new(job: &Job, _config: &ModelConfig, modules: &[Module], flops: f64) -> Self {
        let (spec, mismatch) = match job.method {
            Method::Gptq { spec, mismatch } => (Some(spec), mismatch > 0.0),
            Method::RoundToNearest => (None, false),
        };
        let calibration = job.calibration.as_ref().filter(|_| spec.is_some());
        Self {
            tokens: calibration.map_or(0, |c| c.tokens().len()),
            window: calibration.map_or(0, |c| c.window()),
            calibrated: calibration.is_some(),
            flops,
            mismatch,
            search: Range::default() == Range::Search && spec.is_some(),
            passes: spec.map_or(0, |s| s.refine_passes),
            modules: modules.to_vec(),
        }
    }

    /// Computing the inputs of a site for all tokens, and their Hessian.
    fn inputs(&self, config: &ModelConfig, site: Site, hessian: bool) -> f64 {
        if !self.calibrated {
            return 0.0;
        }
        let tokens = self.tokens as f64;
        let weights =
            |roles: &[Role]| -> f64 { roles.iter().map(|&r| config.shape(r).len() as f64).sum() };
        let products = match site {
            Site::AttentionInput | Site::MlpInput => 0.0,
            Site::AttentionMix => {
                let heads = (config.n_heads * config.head_dim) as f64;
                weights(&[Role::Query, Role::Key, Role::Value]) + 2.0 * heads * self.window as f64
            }
            Site::MlpMix => weights(&[Role::Gate, Role::Up]),
        };
        let n = SEQUENTIAL_GROUPS
            .iter()
            .find(|(s, _)| *s == site)
            .map_or(0, |(_, roles)| config.shape(roles[0]).in_features) as f64;
        // The mismatch is no symmetric product: twice the work.
        let products_of_inputs = if self.mismatch { 3.0 } else { 1.0 };
        let hessian = if hessian {
            products_of_inputs * tokens * n * n / (self.flops * share::HESSIAN)
        } else {
            0.0
        };
        self.streams() * 2.0 * tokens * products / (self.flops * share::FORWARD) + hessian
    }

    /// Moving the states past a site.
    fn advance(&self, config: &ModelConfig, site: Site) -> f64 {
        if !self.calibrated {
            return 0.0;
        }
        let products = match site {
            Site::AttentionInput | Site::MlpInput => 0,
            Site::AttentionMix => config.shape(Role::AttentionOutput).len(),
            Site::MlpMix => {
                [Role::Gate, Role::Up, Role::Down].map(|r| config.shape(r).len()).iter().sum()
            }
        };
        self.streams() * 2.0 * self.tokens as f64 * products as f64 / (self.flops * share::FORWARD)
    }

    fn streams(&self) -> f64 {
        if self.mismatch { 2.0 } else { 1.0 }
    }

    /// Factoring, shared by the matrices of a site.
    fn factor(&self, module: &Module) -> f64 {
        let roles = SEQUENTIAL_GROUPS
            .iter()
            .find(|(_, roles)| module.role.is_some_and(|role| roles.contains(&role)));
        let sharing = roles.map_or(1, |(_, roles)| roles.len());
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
        if !self.calibrated || module.role.is_none() {
            return len * PLAIN_SECONDS;
        }
        let loops =
            len * n * (1.0 + 2.0 * f64::from(1 + self.passes)) / (self.flops * share::SOLVE);
        let search = if self.search { len * 900.0 / (self.flops * share::SEARCH) } else { 0.0 };
        loops + search + self.factor(module)
    }

    fn total(&self, config: &ModelConfig) -> f64 {
        (0..=config.n_layers).map(|block| self.block(config, block)).sum()
    }

    /// A block, or after the last one embedding and head.
    fn block(&self, config: &ModelConfig, block: usize) -> f64 {
        let sites = SEQUENTIAL_GROUPS
            .iter()
            .take_while(|_| block < config.n_layers)
            .map(|&(site, _)| self.inputs(config, site, true) + self.advance(config, site));
        let matrices = self.modules.iter().filter(|m| m.block == block).map(|m| self.matrix(m));
        sites.sum::<f64>() + matrices.sum::<f64>()
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
