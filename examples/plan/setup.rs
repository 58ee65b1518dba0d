//! Grids, container and method, from the command line.

use std::path::{Path, PathBuf};

use anyhow::Result;
use fewbit::{
    checkpoint::{
        Access, Checkpoint, CompressedTensors, Container, Gptq, GptqVersion, IntLayout,
        gguf_model::GgufContainer,
    },
    format::{IntScheme, MatrixShape, Plan, ScaleType, Scheme},
    gptq::GptqSpec,
    model::ModelConfig,
    pipeline::{
        Calibration, Importance, ImportanceSource, Job, Method, measure_importance,
        sensitivity::{SensitivitySpec, grid_of_name},
        weight_dtype,
    },
};

use crate::{
    Source,
    args::{Args, BudgetArg, ContainerArg, MethodArg},
    support::bar::Bar,
};

pub struct Setup {
    pub container: Box<dyn Container>,
    pub grids: Vec<Scheme>,
    pub method: Method,
    pub shapes: Vec<MatrixShape>,
    pub model: Checkpoint,
    pub config: ModelConfig,
    pub cache: PathBuf,
    calibration: Calibration,
    measure_on: Calibration,
    probes: Vec<Vec<u32>>,
    importance: Option<Importance>,
}

impl Setup {
    pub fn new(args: &Args, source: &Source) -> Result<Self> {
        let model = Checkpoint::open_with(&source.model, Access::Positioned)?;
        let config = ModelConfig::of(&model)?;
        let container = container(args.container);
        let scale_type = match container.scale_type(weight_dtype(&model, &config)) {
            ScaleType::BF16 => ScaleType::BF16,
            _ => ScaleType::F16,
        };
        let rescaled = |grid: Scheme| match grid {
            Scheme::Int(scheme) if scheme.scale_type == ScaleType::F16 => {
                Scheme::Int(IntScheme { scale_type, ..scheme })
            }
            other => other,
        };
        let grids: Vec<Scheme> = match args.grids.is_empty() {
            true => usual_grids(args.container).into_iter().map(rescaled).collect(),
            false => args.grids.iter().copied().map(rescaled).collect(),
        };
        let integers = grids.iter().all(|g| matches!(g, Scheme::Int(_) | Scheme::Float));
        let method = match args.method {
            Some(MethodArg::Gptq) => gptq(args),
            Some(MethodArg::Rtn) => Method::nearest(),
            None if integers => gptq(args),
            None => Method::nearest(),
        };
        let windows = |n| Calibration::from_documents(&source.calibration, source.window, n);
        let (calibration, measure_on) = (windows(args.windows)?, windows(args.measure_windows)?);
        let probes = probes(source, args.probe_tokens);
        let importance = match (args.container, method.needs_calibration()) {
            (ContainerArg::Gguf, false) => {
                let mut bar = Bar::new();
                let importance = measure_importance(&model, &calibration, &mut bar)?;
                bar.finish();
                Some(importance)
            }
            _ => None,
        };
        let shapes = config.roles().map(|role| config.shape(role)).collect();
        let cache = args.cache.clone().unwrap_or_else(|| args.out.with_extension("measured.json"));
        Ok(Self {
            container,
            grids,
            method,
            shapes,
            model,
            config,
            cache,
            calibration,
            measure_on,
            probes,
            importance,
        })
    }

    pub fn spec<'a>(
        &'a self,
        _args: &Args,
        _source: &'a Source,
        budget: &BudgetArg,
    ) -> SensitivitySpec<'a> {
        let spec = SensitivitySpec::new(
            self.grids.clone(),
            self.method,
            &*self.container,
            &self.measure_on,
            &self.probes,
        );
        let probe_grids = self.probe_grids(budget.bits_per_weight);
        SensitivitySpec { probe_grids, cache: Some(self.cache.clone()), ..spec }
    }

    /// A grid somewhat narrower and one somewhat wider than the budget: near what most matrices will take, and far enough apart to tell how losses grow.
    fn probe_grids(&self, bits_per_weight: Option<f64>) -> Vec<Scheme> {
        let widest = self.shapes.iter().max_by_key(|shape| shape.len()).copied();
        let shape = widest.unwrap_or(MatrixShape::new(1, 1));
        let width = |grid: &Scheme| grid.bits_per_weight(shape).unwrap_or(f64::INFINITY);
        let mut sorted: Vec<Scheme> =
            self.grids.iter().copied().filter(|g| width(g).is_finite()).collect();
        sorted.sort_by(|a, b| width(a).total_cmp(&width(b)));
        let wanted = bits_per_weight.unwrap_or(4.0);
        let below = sorted.iter().rev().find(|g| width(g) <= wanted - 0.5).or(sorted.first());
        let above = sorted.iter().find(|g| width(g) >= wanted + 0.4).or(sorted.last());
        let mut two: Vec<Scheme> = below.into_iter().chain(above).copied().collect();
        two.dedup();
        two
    }

    pub fn job(&self, args: &Args, source: &Source, plan: Plan, out: &Path) -> Job {
        let mut job = Job::new(&source.model, out, plan, Gptq::default());
        job.container = container(args.container);
        job.method = self.method;
        if self.method.needs_calibration() {
            job.calibration = Some(self.calibration.clone());
        }
        job.importance = self.importance.clone().map(ImportanceSource::Given);
        job
    }
}

fn gptq(args: &Args) -> Method {
    let spec =
        GptqSpec { damping: args.damping, refine_passes: args.descent, ..GptqSpec::default() };
    Method::gptq(spec, args.mismatch)
}

fn container(container: ContainerArg) -> Box<dyn Container> {
    match container {
        ContainerArg::Gptq => Box::new(Gptq { version: GptqVersion::V2 }),
        ContainerArg::CompressedTensors => Box::new(CompressedTensors::default()),
        ContainerArg::CompressedTensorsBytes => Box::new(CompressedTensors {
            integers: IntLayout::Bytes,
            ..CompressedTensors::default()
        }),
        ContainerArg::Gguf => Box::new(GgufContainer::default()),
    }
}

/// Grids that engines read from a container.
fn usual_grids(container: ContainerArg) -> Vec<Scheme> {
    let names: &[&str] = match container {
        ContainerArg::Gptq => &[
            "int2-g128",
            "int2-g64",
            "int2-g32",
            "int3-g128",
            "int3-g64",
            "int3-g32",
            "int4-g128",
            "int4-g64",
            "int4-g32",
            "int8-g128",
        ],
        ContainerArg::CompressedTensors | ContainerArg::CompressedTensorsBytes => &[
            "int2-g128",
            "int2-g32",
            "int3-g128",
            "int3-g32",
            "int4-g128",
            "int4-g32",
            "int5-g128",
            "int6-g128",
            "int8-g128",
        ],
        ContainerArg::Gguf => {
            &["q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q4_0", "q5_0", "q8_0"]
        }
    };
    names.iter().filter_map(|name| grid_of_name(name)).collect()
}

/// Calibration documents from the end of the text, whole ones of up to 512 tokens, `most` tokens in all (at least one document).
fn probes(source: &Source, most: usize) -> Vec<Vec<u32>> {
    let (mut probes, mut tokens) = (Vec::new(), 0);
    for document in source.calibration.iter().rev() {
        let document = &document[..document.len().min(512)];
        if !probes.is_empty() && tokens + document.len() > most {
            break;
        }
        tokens += document.len();
        probes.push(document.to_vec());
    }
    probes
}
