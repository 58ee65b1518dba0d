//! What is to be done, and everything that can be refused before it begins.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{
    Access, Checkpoint, Container, Dtype, FolderWriter, ModelOutput, ModuleScheme, PlanInfo,
    TensorSpec, gguf_model::Caveat, total_bytes,
};
use fewbit_format::{MatrixShape, Plan, Scheme};
use fewbit_gptq::Groups;
use fewbit_model::{ModelConfig, Role};

use crate::{
    Calibration, Estimate, Importance, ImportanceSource, Method, PipelineError, Progress, Report,
    Rounding, Transform,
    fingerprint::{check_and_hash, hash_bytes},
    folding::folds,
    importance::measure_importance,
    run::Run,
    work::{Fingerprint, SCHEMA, WorkFolder},
};

/// What to do with an earlier run's work folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Resume {
    /// Continue if there is one, else begin.
    #[default]
    Auto,
    /// Continue; it is an error if there is none.
    Require,
}

/// A job: one checkpoint folder into another.
#[derive(Debug)]
pub struct Job {
    /// Model folder, as downloaded from Hugging Face.
    pub model: PathBuf,
    /// Output folder; must not exist.
    pub out: PathBuf,
    /// Work folder for resuming; `OUT.work` beside the output if `None`.
    pub work: Option<PathBuf>,
    /// The scheme of each matrix.
    pub plan: Plan,
    /// How codes are chosen.
    pub method: Method,
    /// How matrices lie in the output.
    pub container: Box<dyn Container>,
    /// Calibration tokens, for methods that need them.
    pub calibration: Option<Calibration>,
    /// Mean square of each input of a module, by which plain rounding into blocks weighs errors.
    pub importance: Option<ImportanceSource>,
    /// Whether an earlier run has to exist.
    pub resume: Resume,
    /// Turns every repair into an error.
    pub strict: bool,
    /// Bytes after which a new output file begins.
    pub shard_bytes: u64,
}

/// A matrix of the model and what the plan says of it.
#[derive(Clone, Debug)]
pub struct Module {
    /// Block it belongs to; the number of blocks for embedding and head.
    pub block: usize,
    /// What it does there; `None` for embedding and head.
    pub role: Option<Role>,
    /// Name, shape and scheme.
    pub scheme: ModuleScheme,
}

/// A job that passed every check and can start.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) job: Job,
    pub(crate) model: Checkpoint,
    pub(crate) config: ModelConfig,
    pub(crate) modules: Vec<Module>,
    pub(crate) specs: Vec<TensorSpec>,
    /// Float tensors that a transform changes.
    folded: BTreeSet<String>,
    caveats: Vec<Caveat>,
    pub(crate) work: PathBuf,
    pub(crate) fingerprint: Fingerprint,
    estimate: Estimate,
}

impl Job {
    /// A job of plain rounding with the usual settings.
    pub fn new(
        model: impl Into<PathBuf>,
        out: impl Into<PathBuf>,
        plan: Plan,
        container: impl Container + 'static,
    ) -> Self {
        Self {
            model: model.into(),
            out: out.into(),
            work: None,
            plan,
            method: Method::nearest(),
            container: Box::new(container),
            calibration: None,
            importance: None,
            resume: Resume::Auto,
            strict: false,
            shard_bytes: FolderWriter::SHARD_BYTES,
        }
    }

    /// Time, memory and size without reading the weights.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), as far as it shows in names and shapes.
    pub fn estimate(&self) -> Result<Estimate, PipelineError> {
        let model = Checkpoint::open_with(&self.model, Access::Positioned)?;
        let config = ModelConfig::of(&model)?;
        let modules = self.modules(&model, &config)?;
        let specs = self.output_specs(&model, &modules);
        Ok(Estimate::new(self, &model, &config, &modules, &specs))
    }

    /// Opens the model, checks everything that can be checked beforehand, and estimates time, memory and size.
    ///
    /// # Errors
    /// Whatever would make the job fail later and can be seen now: an unknown architecture, a container that cannot carry the plan, a
    /// weight that is not finite, too little calibration text, an existing output folder, a work folder of another job.
    pub fn prepare(self, progress: &mut dyn Progress) -> Result<Prepared, PipelineError> {
        if self.out.exists() {
            return Err(PipelineError::OutputExists { folder: self.out });
        }
        let mismatch = self.method.mismatch();
        if !(0.0..=1.0).contains(&mismatch) {
            return Err(PipelineError::Mismatch { mismatch });
        }
        if self.method.search().is_some_and(|(candidates, tokens)| candidates < 2 || tokens == 0) {
            return Err(PipelineError::EmptySearch);
        }
        // Positioned reads instead of a map: mapped pages would count as resident memory, and the estimate is to hold.
        let model = Checkpoint::open_with(&self.model, Access::Positioned)?;
        if let Some(container) = model.container() {
            let (folder, container) = (self.model.clone(), container.name().into());
            return Err(PipelineError::AlreadyQuantized { folder, container });
        }
        let config = ModelConfig::of(&model)?;
        let modules = self.modules(&model, &config)?;
        let fixed_inputs = self.container.input_scale("").is_some();
        if fixed_inputs && !self.method.needs_calibration() {
            return Err(PipelineError::InputScales { method: self.method.name() });
        }
        self.check_calibration(&config)?;
        self.check_importance(&modules)?;
        let specs = self.output_specs(&model, &modules);
        let schemes: Vec<_> = modules.iter().map(|m| m.scheme.clone()).collect();
        let caveats = self.container.check_model(&ModelOutput {
            out: &self.out,
            original: &model,
            specs: &specs,
            plan: &self.plan_info(&schemes),
            part_bytes: self.shard_bytes,
        })?;
        let work = self.work.clone().unwrap_or_else(|| sibling(&self.out, "work"));
        if self.resume == Resume::Require && !work.join("job.json").is_file() {
            return Err(PipelineError::NothingToResume { folder: work });
        }
        let estimate = Estimate::new(&self, &model, &config, &modules, &specs);
        estimate.check_disk(&self.out)?;

        let folded = match self.method.transform {
            Transform::None => BTreeSet::new(),
            transform => (0..config.n_layers)
                .flat_map(|block| folds(&model, &config, &modules, block))
                .filter(|fold| transform.scales(fold.producer))
                .flat_map(|fold| fold.tensors)
                .collect(),
        };
        let model_hash = check_and_hash(&model, progress, |p| cancelled(p, &work))?;
        let fingerprint = self.fingerprint(model_hash, &modules);
        WorkFolder::check(&work, &fingerprint)?;
        Ok(Prepared {
            job: self,
            model,
            config,
            modules,
            specs,
            folded,
            caveats,
            work,
            fingerprint,
            estimate,
        })
    }

    /// Every linear layer with its scheme, and embedding and head if the plan names them, each checked against the container.
    fn modules(
        &self,
        model: &Checkpoint,
        config: &ModelConfig,
    ) -> Result<Vec<Module>, PipelineError> {
        let solver = self.method.gptq_spec();
        let group_map = solver.is_some_and(|spec| spec.groups == Groups::Ordered);
        let mut modules = Vec::new();
        for block in 0..config.n_layers {
            for role in config.roles() {
                let (module, shape) = (config.module(block, role), config.shape(role));
                let scheme = self.plan.scheme(&module);
                let group_map = group_map && scheme != Scheme::Float;
                if !self.method.takes(&scheme, shape) {
                    let grid = scheme.to_string();
                    return Err(match self.method.rounding {
                        Rounding::HalfQuadratic(_) => PipelineError::NoZeroPoint { module, grid },
                        _ => PipelineError::GridOfMethod { module, grid },
                    });
                }
                let scheme = ModuleScheme { module, shape, scheme, group_map };
                modules.push(Module { block, role: Some(role), scheme });
            }
        }
        modules.extend(self.ends(model, config));
        if let Some((module, _)) =
            self.plan.overrides().find(|(name, _)| modules.iter().all(|m| m.scheme.module != *name))
        {
            return Err(PipelineError::UnknownModule { module: module.into() });
        }
        if !modules.iter().any(Module::is_quantized) {
            return Err(PipelineError::NothingToQuantize { matrices: modules.len() });
        }
        let schemes: Vec<_> = modules.iter().map(|m| m.scheme.clone()).collect();
        self.container.check_plan(&self.plan_info(&schemes))?;
        Ok(modules)
    }

    /// Embedding and head, where the plan names them and the container has a place for them.
    fn ends(&self, model: &Checkpoint, config: &ModelConfig) -> Vec<Module> {
        let named = |module: &str| self.plan.overrides().any(|(name, _)| name == module);
        let ends = config.end_modules().into_iter().filter(|module| {
            self.container.carries_embeddings()
                && named(module)
                && model.tensor(&format!("{module}.weight")).is_some()
        });
        ends.map(|module| {
            let scheme = ModuleScheme {
                shape: MatrixShape::new(config.vocab_size, config.hidden_size),
                scheme: self.plan.scheme(&module),
                module,
                group_map: false,
            };
            Module { block: config.n_layers, role: None, scheme }
        })
        .collect()
    }

    /// Importances must be as long as rows, finite and not negative.
    fn check_importance(&self, modules: &[Module]) -> Result<(), PipelineError> {
        let importance = match &self.importance {
            None => return Ok(()),
            Some(ImportanceSource::Measured) if self.calibration.is_none() => {
                return Err(PipelineError::CalibrationMissing);
            }
            Some(ImportanceSource::Measured) => return Ok(()),
            Some(ImportanceSource::Given(importance)) => importance,
        };
        for ModuleScheme { module, shape, .. } in modules.iter().map(|m| &m.scheme) {
            let Some(values) = importance.get(module) else { continue };
            let sound = |v: &f32| v.is_finite() && *v >= 0.0;
            if values.len() != shape.in_features || !values.iter().all(sound) {
                let (module, in_features, got) = (module.clone(), shape.in_features, values.len());
                return Err(PipelineError::Importance { module, in_features, got });
            }
        }
        Ok(())
    }

    fn check_calibration(&self, config: &ModelConfig) -> Result<(), PipelineError> {
        let Some(calibration) = &self.calibration else {
            return match self.method.needs_calibration() {
                false => Ok(()),
                true => Err(PipelineError::CalibrationMissing),
            };
        };
        let vocab_size = config.vocab_size;
        let tokens = calibration.tokens();
        match tokens.iter().position(|&t| t as usize >= vocab_size) {
            None => Ok(()),
            Some(position) => {
                Err(PipelineError::TokenRange { token: tokens[position], position, vocab_size })
            }
        }
    }

    /// All tensors of the output: those of the input in their order, weights of quantized modules replaced.
    fn output_specs(&self, model: &Checkpoint, modules: &[Module]) -> Vec<TensorSpec> {
        let mut specs = Vec::new();
        for info in model.tensors() {
            let module = info.name.strip_suffix(".weight");
            let quantized = modules.iter().find(|m| Some(m.scheme.module.as_str()) == module);
            match quantized.filter(|m| m.is_quantized()) {
                None => specs.push(TensorSpec::from(info)),
                Some(Module { scheme: s, .. }) => {
                    specs.extend(self.container.tensors(
                        &s.module,
                        s.shape,
                        &s.scheme,
                        s.group_map,
                    ));
                    specs.extend(self.container.input_scale(&s.module));
                }
            }
        }
        specs
    }

    /// What the container says in its configuration.
    pub(crate) fn plan_info<'a>(&self, schemes: &'a [ModuleScheme]) -> PlanInfo<'a> {
        let damping = self.method.gptq_spec().map(|spec| spec.damping);
        PlanInfo { modules: schemes, damping }
    }

    fn fingerprint(&self, model: String, modules: &[Module]) -> Fingerprint {
        let schemes: Vec<_> = modules.iter().map(|m| &m.scheme).collect();
        let settings =
            format!("{:?} {:?} {schemes:?} {}", self.method, self.container, self.strict);
        let calibration = self
            .calibration
            .as_ref()
            .map(|c| format!("{} {}", c.window(), hash_bytes(bytemuck::cast_slice(c.tokens()))));
        let importance = match &self.importance {
            None => String::new(),
            Some(ImportanceSource::Measured) => "measured".into(),
            Some(ImportanceSource::Given(importance)) => {
                let hash = |(module, values): (&String, &Vec<f32>)| {
                    format!("{module} {}", hash_bytes(bytemuck::cast_slice(values)))
                };
                importance.iter().map(hash).collect::<Vec<_>>().join(" ")
            }
        };
        let calibration = calibration.unwrap_or_default() + &importance;
        Fingerprint {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            model,
            settings: hash_bytes(settings.as_bytes()),
            calibration,
        }
    }
}

impl Module {
    /// Last part of its name, such as `down_proj`.
    pub fn name(&self) -> &str {
        let name = &self.scheme.module;
        name.rsplit('.').next().unwrap_or(name)
    }

    /// Whether it takes a grid.
    pub fn is_quantized(&self) -> bool {
        self.scheme.scheme != Scheme::Float
    }
}

impl Prepared {
    /// Time, memory and sizes, as estimated.
    pub fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    /// The linear layers, in the order of the model.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// What the output will carry otherwise than the model.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// Blocks, and one more if embedding or head are quantized.
    pub(crate) fn n_steps(&self) -> usize {
        self.modules.last().map_or(0, |module| module.block + 1)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether the output takes this tensor over from the input.
    pub(crate) fn keeps(&self, tensor: &str) -> bool {
        let replaced = |m: &Module| {
            m.is_quantized() && tensor.strip_suffix(".weight") == Some(m.scheme.module.as_str())
        };
        self.model.tensor(tensor).is_some()
            && !self.folded.contains(tensor)
            && !self.modules.iter().any(replaced)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.job.plan
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.job.method
    }

    /// The container that will be written.
    pub fn container(&self) -> &dyn Container {
        &*self.job.container
    }

    /// The calibration tokens, if there are any.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.job.calibration.as_ref()
    }

    /// Bytes of all tensors before and after.
    pub fn bytes(&self) -> (u64, u64) {
        let before: Vec<_> = self.model.tensors().map(TensorSpec::from).collect();
        (total_bytes(&before), total_bytes(&self.specs))
    }

    /// The importances of the job, if it has any: measured now where they have to be, and then kept.
    ///
    /// # Errors
    /// As [`measure_importance`].
    pub fn importance(
        &mut self,
        progress: &mut dyn Progress,
    ) -> Result<Option<&Importance>, PipelineError> {
        if let (Some(ImportanceSource::Measured), Some(calibration)) =
            (&self.job.importance, &self.job.calibration)
        {
            let importance = measure_importance(&self.model, calibration, progress)?;
            self.job.importance = Some(ImportanceSource::Given(importance));
        }
        Ok(self.measured_importance())
    }

    /// The importances, if there are any yet.
    pub(crate) fn measured_importance(&self) -> Option<&Importance> {
        match &self.job.importance {
            Some(ImportanceSource::Given(importance)) => Some(importance),
            _ => None,
        }
    }

    /// The model folder.
    pub fn model_folder(&self) -> &Path {
        &self.job.model
    }

    /// Where the work folder lies.
    pub fn work_folder(&self) -> &Path {
        &self.work
    }

    /// Does the job. Killed at any moment, the same job continues where it stopped and gives the same bytes.
    ///
    /// # Errors
    /// If a file cannot be read or written, the caller cancels, strict mode meets a repair, or the written folder does not decode to what was computed.
    pub fn run(mut self, progress: &mut dyn Progress) -> Result<Report, PipelineError> {
        self.importance(progress)?;
        Run::new(&self)?.run(progress)
    }
}

/// `Err` if the caller wants to stop.
pub(crate) fn cancelled(progress: &dyn Progress, work: &Path) -> Result<(), PipelineError> {
    if progress.cancelled() {
        return Err(PipelineError::Cancelled { folder: work.into() });
    }
    Ok(())
}

/// `path` with a suffix: `out/model` and `work` give `out/model.work`.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The type of the model's float weights: that of the first quantizable matrix, by which containers choose the type of scales.
pub fn weight_dtype(model: &Checkpoint, config: &ModelConfig) -> Dtype {
    let first = config.roles().next().expect("blocks have layers");
    let name = format!("{}.weight", config.module(0, first));
    model.tensor(&name).map_or(Dtype::F32, |info| info.dtype)
}
