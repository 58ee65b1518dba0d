//! From one container into another, without quantizing anew.
//!
//! Codes and parameters are laid anew wherever both containers share the grid, and never pass through floats. What does not fit is refused before
//! anything is written, unless the caller names a grid for it. Floats and the blocks of GGUF files go from file to file in pieces of a few million
//! weights; of other containers, one matrix is in memory at a time, in codes.

mod rows;

use std::path::{Path, PathBuf};

use fewbit_checkpoint::{
    Access, Checkpoint, Container, ModelOutput, ModelWriter, ModuleScheme, PlanInfo, TensorSpec,
    Weight, gguf_model::Caveat,
};
use fewbit_format::{
    Bits, BlockType, Float4, Float8Scheme, Granularity, IntScheme, MatrixShape, OffsetScheme,
    Quantized, ScaleTile, ScaleType, Scheme, Symmetry,
};
use fewbit_model::ModelConfig;
use xxhash_rust::xxh3::Xxh3;

use self::rows::{Rows, Step};
use crate::{Event, Phase, PipelineError, Progress, job::cancelled};

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
    /// Grid for matrices in floating point, embedding and head among them where the container carries these; they stay as they are if `None`.
    pub floats: Option<Scheme>,
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
    /// Finds the grid that each matrix takes in the output. Decodes those for which the grid alone does not tell.
    ///
    /// # Errors
    /// If the model cannot be read, there is nothing to lay anew, a matrix has no place in the output, or the output exists.
    pub fn prepare(self, progress: &mut dyn Progress) -> Result<PreparedConversion, PipelineError> {
        progress.event(Event::Phase(Phase::Check));
        if self.out.exists() {
            return Err(PipelineError::OutputExists { folder: self.out });
        }
        let model = Checkpoint::open_with(&self.model, Access::Positioned)?;
        let mut modules: Vec<String> = model.quantized_modules().map(str::to_owned).collect();
        modules.extend(self.float_modules(&model)?);
        // A float model can become a GGUF file, but there is nothing to lay anew for the others.
        if modules.is_empty() && self.container.as_ref().is_some_and(|c| !c.carries_embeddings()) {
            return Err(PipelineError::NothingToConvert { model: self.model });
        }
        let mut matrices = Vec::new();
        let mut schemes = Vec::new();
        for (i, module) in modules.iter().enumerate() {
            cancelled(progress, &self.out)?;
            let (to, shape, group_map) = self.target(&model, module)?;
            schemes.push(ModuleScheme {
                module: module.clone(),
                shape,
                scheme: to.to,
                group_map: group_map && !to.anew && matches!(to.to, Scheme::Int(_)),
            });
            matrices.push(to);
            progress.event(Event::Advanced { fraction: (i + 1) as f64 / modules.len() as f64 });
        }
        let widened = |m: &Conveyed| m.from != Scheme::Float && m.to == Scheme::Float;
        if lies_transposed(&model) && matrices.iter().any(|m| widened(m) && is_layer(&m.module)) {
            return Err(PipelineError::TransposedFloats { model: self.model });
        }
        // Linear layers that stay in float, for the configuration.
        for info in model.tensors().filter(|info| info.shape.len() == 2) {
            let Some(module) = info.name.strip_suffix(".weight") else { continue };
            let &[out_features, in_features] = &info.shape[..] else { continue };
            if modules.iter().all(|m| m != module) && !module.contains("embed_tokens") {
                schemes.push(ModuleScheme {
                    module: module.to_owned(),
                    shape: MatrixShape { out_features, in_features },
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

    /// The matrices in floating point that are to be rounded.
    fn float_modules(&self, model: &Checkpoint) -> Result<Vec<String>, PipelineError> {
        let (Some(_), Some(container)) = (&self.floats, &self.container) else {
            return Ok(Vec::new());
        };
        if lies_transposed(model) {
            return Err(PipelineError::TransposedFloats { model: self.model.clone() });
        }
        let matrices = model.tensors().filter(|info| info.shape.len() == 2);
        let modules = matrices.filter_map(|info| info.name.strip_suffix(".weight"));
        let carried = modules.filter(|module| container.carries_embeddings() || is_layer(module));
        let floats = carried.filter(|module| {
            Rows::of_module(model, module).is_some_and(|rows| rows.scheme() == Scheme::Float)
        });
        Ok(floats.map(str::to_owned).collect())
    }

    /// The grid of a matrix in the output, its shape, and whether it has a group map.
    fn target(
        &self,
        model: &Checkpoint,
        module: &str,
    ) -> Result<(Conveyed, MatrixShape, bool), PipelineError> {
        let rows = Rows::of_module(model, module);
        let to = |from, to, anew| Conveyed { module: module.to_owned(), from, to, anew };
        if let (Some(rows), Some(container)) = (&rows, &self.container) {
            let (from, shape) = (rows.scheme(), rows.shape());
            if let (Scheme::Float, Some(scheme)) = (from, self.floats) {
                container.check(module, shape, &scheme, false)?;
                return Ok((to(from, scheme, true), shape, false));
            }
            if container.check(module, shape, &from, false).is_ok() {
                return Ok((to(from, from, false), shape, false));
            }
        }
        let shape_in_rows = rows.map(|rows| (rows.scheme(), rows.shape()));
        // An embedding or head in few bits, which most containers cannot carry, is as exact in f32.
        let widens = match &self.container {
            None => true,
            Some(container) => !container.carries_embeddings() && !is_layer(module),
        };
        if let (true, Some((from, shape))) = (widens, shape_in_rows) {
            return Ok((to(from, Scheme::Float, false), shape, false));
        }
        let matrix = match model.weight(module)? {
            Weight::Quant(matrix) => matrix,
            Weight::Float { shape, .. } => {
                return Ok((to(Scheme::Float, Scheme::Float, false), shape, false));
            }
        };
        let (from, shape) = (matrix.scheme(), matrix.shape());
        let group_map = matrix.group_of_column().is_some();
        let scheme = match &self.container {
            Some(container) if !widens => self.target_in(container.as_ref(), module, &matrix)?,
            _ => (Scheme::Float, false),
        };
        Ok((to(from, scheme.0, scheme.1), shape, group_map))
    }

    /// The grid of a matrix in a container, and whether it is rounded to it anew.
    fn target_in(
        &self,
        container: &dyn Container,
        module: &str,
        matrix: &Quantized,
    ) -> Result<(Scheme, bool), PipelineError> {
        let (from, shape) = (matrix.scheme(), matrix.shape());
        let group_map = matrix.group_of_column().is_some();
        let mut reason = None;
        for scheme in self.candidates(&from) {
            if let Err(refusal) = container.check(module, shape, &scheme, group_map) {
                reason = reason.or(Some(refusal.to_string()));
                continue;
            }
            match matrix.relay(&scheme).map(|m| container.encode(module, &m)) {
                Ok(Ok(_)) => return Ok((scheme, false)),
                Ok(Err(refusal)) => reason = Some(refusal.to_string()),
                Err(misfit) => reason = Some(misfit.to_string()),
            }
        }
        match &self.anew {
            Some(scheme) => {
                container.check(module, shape, scheme, false)?;
                Ok((*scheme, true))
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
            Scheme::Offset(OffsetScheme { bits, group_size, value_type }) => {
                candidates.extend([BlockType::Q4_1, BlockType::Q5_1].map(Scheme::Block));
                IntScheme {
                    bits: *bits,
                    symmetry: Symmetry::Affine,
                    granularity: Granularity::Group(*group_size),
                    scale_type: *value_type,
                }
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
                        if let (Symmetry::Affine, Granularity::Group(group_size)) =
                            (symmetry, granularity)
                        {
                            let value_type = scale_type;
                            let scheme = OffsetScheme { bits, group_size, value_type };
                            candidates.push(Scheme::Offset(scheme));
                        }
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
            None => fewbit_checkpoint::float_folder(&output, serde_json::Map::new())?,
        };
        let kept = |name: &str| !matrices.iter().any(|m| belongs(name, &m.module));
        for info in model.tensors().filter(|info| kept(&info.name)) {
            cancelled(progress, &job.out)?;
            Rows::of_tensor(model, info).write(Step::Copy, &info.name, writer.as_mut())?;
        }
        let mut checks = Vec::new();
        for (i, conveyed) in matrices.iter().enumerate() {
            cancelled(progress, &job.out)?;
            progress.event(Event::Matrix { module: &conveyed.module });
            checks.push(self.convey(conveyed, writer.as_mut())?);
            progress.event(Event::Advanced { fraction: (i + 1) as f64 / matrices.len() as f64 });
        }
        let written = Checkpoint::open_with(writer.complete()?, Access::Positioned)?;
        for (conveyed, check) in matrices.iter().zip(checks) {
            if !check.holds(&written, &conveyed.module)? {
                return Err(PipelineError::Verify { module: conveyed.module.clone() });
            }
        }
        drop(written);
        writer.finish()?;
        Ok(())
    }

    /// Writes a matrix; returns what reading it back must find.
    fn convey(
        &self,
        conveyed: &Conveyed,
        writer: &mut dyn ModelWriter,
    ) -> Result<Check, PipelineError> {
        let (module, container) = (&conveyed.module, &self.job.container);
        let target = container.as_ref().filter(|_| conveyed.to != Scheme::Float);
        if let Some(rows) = Rows::of_module(&self.model, module) {
            let step = match (rows.scheme(), conveyed.to) {
                (_, Scheme::Float) => Some(Step::Widen),
                (from, to) if from == to => Some(Step::Copy),
                (_, Scheme::Block(block_type)) if conveyed.anew => Some(Step::Round(block_type)),
                _ => None,
            };
            let tensors = match target {
                Some(container) => container.tensors(module, rows.shape(), &conveyed.to, false),
                None => {
                    vec![float_spec(module, [rows.shape().out_features, rows.shape().in_features])]
                }
            };
            if let (Some(step), [spec]) = (step, &tensors[..]) {
                let unit = writer.row_unit(&spec.name).unwrap_or(1);
                let hash = rows.write(step, &spec.name, writer)?;
                return Ok(hash.map_or(Check::LeftOut, |hash| Check::Bytes { hash, unit }));
            }
        }
        let matrix = match (self.model.weight(module)?, conveyed.to) {
            (Weight::Quant(matrix), _) => matrix,
            (Weight::Float { shape, data, .. }, to) => {
                Quantized::round_to_nearest(&data, shape, to)
                    .map_err(|source| PipelineError::Format { module: module.clone(), source })?
            }
        };
        let Some(container) = target else {
            let mut out = Vec::with_capacity(4 * matrix.shape().len());
            each_row(&matrix, |row| out.extend(row.iter().flat_map(|value| value.to_le_bytes())));
            writer.write(&format!("{module}.weight"), &out)?;
            return Ok(Check::Values { hash: hash_rows(&matrix) });
        };
        let matrix = conveyed.relay(matrix)?;
        for (spec, bytes) in container.encode(module, &matrix)? {
            writer.write(&spec.name, &bytes)?;
        }
        Ok(Check::Values { hash: hash_rows(&matrix) })
    }
}

/// What reading a matrix back must find.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// The rows that were written.
    Bytes { hash: u128, unit: usize },
    /// These values, but for the sign of zero.
    Values { hash: u128 },
    /// Nothing: the output has no place for the matrix, such as the head of a model whose head is the embedding.
    LeftOut,
}

impl Check {
    fn holds(self, written: &Checkpoint, module: &str) -> Result<bool, PipelineError> {
        match self {
            Self::LeftOut => Ok(true),
            Self::Bytes { hash, unit } => match Rows::of_module(written, module) {
                Some(rows) => Ok(rows.hash(unit)? == hash),
                None => Ok(false),
            },
            Self::Values { hash } => match written.weight(module)? {
                Weight::Quant(matrix) => Ok(hash_rows(&matrix) == hash),
                Weight::Float { shape, data, .. } => {
                    Ok(hash_of(data.chunks(shape.in_features.max(1))) == hash)
                }
            },
        }
    }
}

impl Conveyed {
    /// The matrix on its grid in the output.
    fn relay(&self, matrix: Quantized) -> Result<Quantized, PipelineError> {
        let name = || self.module.clone();
        if matrix.scheme() == self.to {
            return Ok(matrix);
        }
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

/// Whether float matrices of blocks are `(in_features, out_features)` in this model, and those in few bits not.
fn lies_transposed(model: &Checkpoint) -> bool {
    ModelConfig::of(model).is_ok_and(|config| config.architecture.lies_transposed())
}

/// Decodes a matrix row by row.
fn each_row(matrix: &Quantized, mut f: impl FnMut(&[f32])) {
    let shape = matrix.shape();
    let mut values = vec![0.0; shape.in_features];
    for row in 0..shape.out_features {
        matrix.dequantize_row_into(row, &mut values);
        f(&values);
    }
}

fn hash_rows(matrix: &Quantized) -> u128 {
    let mut hash = ValuesHash::default();
    each_row(matrix, |row| hash.update(row));
    hash.0.digest128()
}

fn hash_of<'a>(rows: impl Iterator<Item = &'a [f32]>) -> u128 {
    let mut hash = ValuesHash::default();
    rows.for_each(|row| hash.update(row));
    hash.0.digest128()
}

/// Hash of the values of a matrix, row by row, but for the sign of zero: a zero that is computed as `code · scale + minimum` has another one than `0 · scale`.
#[derive(Default)]
struct ValuesHash(Xxh3);

impl ValuesHash {
    fn update(&mut self, row: &[f32]) {
        let row: Vec<f32> = row.iter().map(|value| value + 0.0).collect();
        self.0.update(bytemuck::cast_slice(&row));
    }
}
