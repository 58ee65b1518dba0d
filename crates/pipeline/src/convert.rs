//! From one container into another, without quantizing anew.
//!
//! Codes and parameters are laid anew wherever both containers share the grid, and never pass through floats. What does not fit is refused before
//! anything is written, unless the caller names a grid for it. One matrix is in memory at a time.

use std::path::{Path, PathBuf};

use fewbit_checkpoint::{
    Access, Checkpoint, Container, ModelOutput, ModuleScheme, PlanInfo, TensorSpec, Weight,
    gguf_model::Caveat,
};
use fewbit_format::{
    Bits, BlockType, Float4, Float8Scheme, Granularity, IntScheme, Quantized, ScaleTile, ScaleType,
    Scheme, Symmetry,
};

use crate::{Event, Phase, PipelineError, Progress, fingerprint::hash_values, job::cancelled};

/// What is to be converted, and into what.
#[derive(Debug)]
pub struct Conversion {
    /// Model folder or file.
    pub model: PathBuf,
    /// Folder or file to write; must not exist.
    pub out: PathBuf,
    /// How matrices lie in the output. `None`: in f32, which holds the value of every code exactly.
    pub container: Option<Box<dyn Container>>,
    /// Grid for matrices that do not fit as they are: they are decoded and rounded to nearest.
    pub anew: Option<Scheme>,
    /// Whether codes may get wider to fit.
    pub widen: bool,
    /// Bytes after which a new output file begins.
    pub part_bytes: u64,
}

/// A matrix on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Conveyed {
    /// Module name.
    pub module: String,
    /// Its grid before.
    pub from: Scheme,
    /// Its grid after; [`Scheme::Float`] in f32.
    pub to: Scheme,
    /// Whether it is rounded anew, so that its values change.
    pub anew: bool,
}

/// A conversion that passed every check and can start.
#[derive(Debug)]
pub struct PreparedConversion {
    job: Conversion,
    model: Checkpoint,
    matrices: Vec<Conveyed>,
    schemes: Vec<ModuleScheme>,
    specs: Vec<TensorSpec>,
    caveats: Vec<Caveat>,
}

impl Conversion {
    /// Decodes every matrix once to find the grid that it takes in the output.
    ///
    /// # Errors
    /// If the model cannot be read, nothing in it is quantized, a matrix has no place in the output, or the output exists.
    pub fn prepare(self, progress: &mut dyn Progress) -> Result<PreparedConversion, PipelineError> {
        progress.event(Event::Phase(Phase::Check));
        if self.out.exists() {
            return Err(PipelineError::OutputExists { folder: self.out });
        }
        let model = Checkpoint::open_with(&self.model, Access::Positioned)?;
        let modules: Vec<String> = model.quantized_modules().map(str::to_owned).collect();
        // A float model can become a GGUF file, but there is nothing to lay anew for the others.
        if modules.is_empty() && self.container.as_ref().is_some_and(|c| !c.carries_embeddings()) {
            return Err(PipelineError::NothingToConvert { model: self.model });
        }
        let mut matrices = Vec::new();
        let mut schemes = Vec::new();
        for (i, module) in modules.iter().enumerate() {
            cancelled(progress, &self.out)?;
            let Weight::Quant(matrix) = model.weight(module)? else { continue };
            let to = self.target(module, &matrix)?;
            let group_map = matrix.group_of_column().is_some();
            schemes.push(ModuleScheme {
                module: module.clone(),
                shape: matrix.shape(),
                scheme: to.to,
                group_map: group_map && !to.anew && matches!(to.to, Scheme::Int(_)),
            });
            matrices.push(to);
            progress.event(Event::Advanced { fraction: (i + 1) as f64 / modules.len() as f64 });
        }
        // Linear layers that stay in float, for the configuration.
        for info in model.tensors().filter(|info| info.shape.len() == 2) {
            let Some(module) = info.name.strip_suffix(".weight") else { continue };
            let &[out_features, in_features] = &info.shape[..] else { continue };
            if modules.iter().all(|m| m != module) && !module.contains("embed_tokens") {
                schemes.push(ModuleScheme {
                    module: module.to_owned(),
                    shape: fewbit_format::MatrixShape { out_features, in_features },
                    scheme: Scheme::Float,
                    group_map: false,
                });
            }
        }
        let mut specs: Vec<TensorSpec> = model
            .tensors()
            .filter(|info| !modules.iter().any(|module| belongs(&info.name, module)))
            .map(TensorSpec::from)
            .collect();
        for ModuleScheme { module, shape, scheme, group_map } in &schemes[..matrices.len()] {
            match (&self.container, scheme) {
                (Some(container), scheme) if *scheme != Scheme::Float => {
                    specs.extend(container.tensors(module, *shape, scheme, *group_map));
                }
                _ => specs.push(float_spec(module, [shape.out_features, shape.in_features])),
            }
        }
        let plan = PlanInfo { modules: &schemes, damping: None };
        let caveats = match &self.container {
            None => Vec::new(),
            Some(container) => {
                container.check_plan(&plan)?;
                container.check_model(&output(&self, &model, &specs, &plan))?
            }
        };
        Ok(PreparedConversion { job: self, model, matrices, schemes, specs, caveats })
    }

    /// The grid of a matrix in the output.
    fn target(&self, module: &str, matrix: &Quantized) -> Result<Conveyed, PipelineError> {
        let from = matrix.scheme();
        let to = |to, anew| Ok(Conveyed { module: module.to_owned(), from, to, anew });
        let Some(container) = &self.container else { return to(Scheme::Float, false) };
        // An embedding or head in few bits, which most containers cannot carry, is as exact in f32.
        if !container.carries_embeddings() && !is_layer(module) {
            return to(Scheme::Float, false);
        }
        let (shape, group_map) = (matrix.shape(), matrix.group_of_column().is_some());
        let mut reason = None;
        for scheme in self.candidates(&from) {
            if let Err(refusal) = container.check(module, shape, &scheme, group_map) {
                reason = reason.or(Some(refusal.to_string()));
                continue;
            }
            match matrix.relay(&scheme).map(|m| container.encode(module, &m)) {
                Ok(Ok(_)) => return to(scheme, false),
                Ok(Err(refusal)) => reason = Some(refusal.to_string()),
                Err(misfit) => reason = Some(misfit.to_string()),
            }
        }
        match &self.anew {
            Some(scheme) => {
                container.check(module, shape, scheme, false)?;
                to(*scheme, true)
            }
            None => Err(PipelineError::NotLossless {
                module: module.to_owned(),
                grid: from.to_string(),
                container: container.name().into(),
                reason: reason.unwrap_or_default(),
            }),
        }
    }

    /// Grids that hold the same values, the most alike first.
    fn candidates(&self, from: &Scheme) -> Vec<Scheme> {
        let mut candidates = vec![*from];
        let int = match from {
            Scheme::Int(scheme) => *scheme,
            Scheme::Float4(scheme) => {
                candidates.extend(BlockType::from_name(scheme.name()).map(Scheme::Block));
                return candidates;
            }
            Scheme::Block(BlockType::Mxfp4) => {
                candidates.push(Scheme::Float4(Float4::Mxfp4));
                return candidates;
            }
            Scheme::Block(BlockType::Nvfp4) => {
                candidates.push(Scheme::Float4(Float4::Nvfp4));
                return candidates;
            }
            Scheme::Float8(scheme) => {
                for scale_type in [ScaleType::BF16, ScaleType::F32] {
                    for tile in [scheme.tile, ScaleTile::block(128, 128)] {
                        candidates.push(Scheme::Float8(Float8Scheme {
                            tile,
                            scale_type,
                            ..*scheme
                        }));
                    }
                }
                return candidates;
            }
            // Those of the simple block types; `relay` refuses the others.
            Scheme::Block(block_type) => IntScheme {
                bits: match block_type.bits_per_weight() {
                    b if b < 5.5 => Bits::B4,
                    b if b < 8.0 => Bits::B5,
                    _ => Bits::B8,
                },
                symmetry: Symmetry::Symmetric,
                granularity: Granularity::group(32),
                scale_type: ScaleType::F16,
            },
            _ => return candidates,
        };
        let widths =
            Bits::ALL.into_iter().filter(|b| *b == int.bits || self.widen && *b > int.bits);
        for bits in widths {
            for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
                for scale_type in [int.scale_type, ScaleType::F16, ScaleType::BF16, ScaleType::F32]
                {
                    for granularity in [
                        int.granularity,
                        Granularity::group(128),
                        Granularity::group(64),
                        Granularity::group(32),
                    ] {
                        let scheme = IntScheme { bits, symmetry, granularity, scale_type };
                        candidates.push(Scheme::Int(scheme));
                    }
                }
            }
        }
        candidates
    }
}

impl PreparedConversion {
    /// The matrices and their grids, in the order of their names.
    pub fn matrices(&self) -> &[Conveyed] {
        &self.matrices
    }

    /// What the output carries otherwise than the model.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// The model that is converted.
    pub fn model(&self) -> &Checkpoint {
        &self.model
    }

    /// Bytes of all tensors after.
    pub fn bytes(&self) -> u64 {
        fewbit_checkpoint::total_bytes(&self.specs)
    }

    /// Writes the output, opens it again, and compares every matrix value by value before it gets its name.
    ///
    /// # Errors
    /// If a file cannot be read or written, the caller cancels, or the written model does not decode to what was read.
    pub fn run(self, progress: &mut dyn Progress) -> Result<(), PipelineError> {
        progress.event(Event::Phase(Phase::Write));
        let Self { job, model, matrices, schemes, specs, .. } = &self;
        let plan = PlanInfo { modules: schemes, damping: None };
        let output = output(job, model, specs, &plan);
        let mut writer = match &job.container {
            Some(container) => container.writer(&output)?,
            None => fewbit_checkpoint::float_folder(&output)?,
        };
        let kept = |name: &str| !matrices.iter().any(|m| belongs(name, &m.module));
        for info in model.tensors().filter(|info| kept(&info.name)) {
            cancelled(progress, &job.out)?;
            writer.write(&info.name, &model.read(&info.name)?)?;
        }
        let mut hashes = Vec::new();
        for (i, conveyed) in matrices.iter().enumerate() {
            cancelled(progress, &job.out)?;
            let module = &conveyed.module;
            progress.event(Event::Matrix { module });
            let Weight::Quant(matrix) = model.weight(module)? else { continue };
            let matrix = match &job.container {
                Some(container) if conveyed.to != Scheme::Float => {
                    let matrix = conveyed.convey(&matrix)?;
                    for (spec, bytes) in container.encode(module, &matrix)? {
                        writer.write(&spec.name, &bytes)?;
                    }
                    matrix
                }
                _ => {
                    let bytes: Vec<u8> =
                        matrix.dequantize().into_iter().flat_map(f32::to_le_bytes).collect();
                    writer.write(&format!("{module}.weight"), &bytes)?;
                    matrix
                }
            };
            hashes.push(hash_values(&without_sign_of_zero(matrix.dequantize())));
            progress.event(Event::Advanced { fraction: (i + 1) as f64 / matrices.len() as f64 });
        }
        let written = Checkpoint::open_with(writer.complete()?, Access::Positioned)?;
        for (conveyed, hash) in matrices.iter().zip(hashes) {
            let values = match written.weight(&conveyed.module)? {
                Weight::Quant(matrix) => matrix.dequantize(),
                Weight::Float { data, .. } => data,
            };
            if hash_values(&without_sign_of_zero(values)) != hash {
                return Err(PipelineError::Verify { module: conveyed.module.clone() });
            }
        }
        drop(written);
        writer.finish()?;
        Ok(())
    }
}

impl Conveyed {
    /// The matrix on its grid in the output.
    fn convey(&self, matrix: &Quantized) -> Result<Quantized, PipelineError> {
        let name = || self.module.clone();
        if self.anew {
            return Quantized::round_to_nearest(&matrix.dequantize(), matrix.shape(), self.to)
                .map_err(|source| PipelineError::Format { module: name(), source });
        }
        matrix.relay(&self.to).map_err(|misfit| PipelineError::NotLossless {
            module: name(),
            grid: self.from.to_string(),
            container: self.to.to_string(),
            reason: misfit.to_string(),
        })
    }
}

fn output<'a>(
    job: &'a Conversion,
    model: &'a Checkpoint,
    specs: &'a [TensorSpec],
    plan: &'a PlanInfo<'a>,
) -> ModelOutput<'a> {
    ModelOutput { out: &job.out, original: model, specs, plan, part_bytes: job.part_bytes }
}

fn float_spec(module: &str, shape: [usize; 2]) -> TensorSpec {
    TensorSpec::new(format!("{module}.weight"), fewbit_checkpoint::Dtype::F32, shape)
}

/// Whether a tensor is part of a quantized module, whatever its container; the bias is not.
fn belongs(tensor: &str, module: &str) -> bool {
    tensor.strip_prefix(module).is_some_and(|rest| rest.starts_with('.') && rest != ".bias")
}

/// Whether a module is a linear layer of a block, and neither embedding nor head.
fn is_layer(module: &str) -> bool {
    Path::new(module).extension().is_some()
        && module.split('.').any(|part| part.parse::<usize>().is_ok())
}

/// A zero that is computed as `code · scale + minimum` has another sign than one that is `0 · scale`.
fn without_sign_of_zero(mut values: Vec<f32>) -> Vec<f32> {
    values.iter_mut().for_each(|v| *v += 0.0);
    values
}
