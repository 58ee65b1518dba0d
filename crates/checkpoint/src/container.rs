//! Containers: how quantized matrices lie in a model folder.

use std::{fmt::Debug, path::Path};

use fewbit_format::{
    Bits, FormatError, IntScheme, MatrixShape, Misfit, QuantMatrix, Quantized, ScaleType, Scheme,
};
use safetensors::Dtype;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    AwqConfig, BitsAndBytesConfig, Checkpoint, CheckpointError, CompressedTensorsConfig, Fp8Config,
    GptqConfig, MlxConfig, OnnxConfig, TensorSource, TensorSpec,
    config::Keys,
    gguf_model::Caveat,
    model_writer::{ModelFolder, ModelWriter},
};

/// A way of writing quantized matrices: [`Gptq`](crate::Gptq), [`CompressedTensors`](crate::CompressedTensors), or your own.
///
/// A container carries some grids and refuses the others by name; none is ever replaced by another.
///
/// Everything but the codes is known beforehand: [`check`](Self::check) refuses what the container cannot carry, and
/// [`tensors`](Self::tensors) says what will be written, both from shape and scheme alone.
pub trait Container: Debug + Send + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// How it stores the scales of a model whose float weights have type `model`.
    fn scale_type(&self, model: Dtype) -> ScaleType;

    /// The least zero point it can store under a scheme, for the solver to respect. 0 unless the container says otherwise.
    fn least_zero_point(&self, _scheme: &IntScheme) -> u8 {
        0
    }

    /// Whether it can carry such a matrix. Asked before any work.
    ///
    /// # Errors
    /// [`CheckpointError::Refused`], with the reason and the remedy.
    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError>;

    /// Whether it can carry all matrices of a model together. Asked before any work.
    ///
    /// # Errors
    /// As [`check`](Self::check), or if the configuration has one place for what differs between modules.
    fn check_plan(&self, plan: &PlanInfo<'_>) -> Result<(), CheckpointError> {
        plan.quantized().try_for_each(|m| self.check(&m.module, m.shape, &m.scheme, m.group_map))
    }

    /// The tensors that such a matrix becomes, without its bias. Meaningful where [`check`](Self::check) agrees.
    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Vec<TensorSpec>;

    /// The bytes of these tensors, in the same order.
    ///
    /// # Errors
    /// As [`check`](Self::check), or if a zero point is below [`least_zero_point`](Self::least_zero_point).
    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError>;

    /// The tensor that holds the fixed step of a layer's inputs, an f32, where engines are told to round inputs so.
    fn input_scale(&self, _module: &str) -> Option<TensorSpec> {
        None
    }

    /// What the configuration of the model has to say. `None` if no module is quantized.
    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>>;

    /// Where in `config.json` that stands.
    fn config_keys(&self) -> &'static [&'static str] {
        &["quantization_config"]
    }

    /// Further JSON files that hold this configuration, by name.
    fn config_files(&self, _config: &Map<String, Value>) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// Whether embedding and head can be among the quantized modules.
    fn carries_embeddings(&self) -> bool {
        false
    }

    /// Whether it can carry the model as a whole, and what it carries otherwise than the original. Asked before any work.
    ///
    /// # Errors
    /// If the model has something for which there is no place.
    fn check_model(&self, _output: &ModelOutput<'_>) -> Result<Vec<Caveat>, CheckpointError> {
        Ok(Vec::new())
    }

    /// Begins the output: a model folder unless the container says otherwise.
    ///
    /// # Errors
    /// If the output exists, or the disk refuses.
    fn writer(&self, output: &ModelOutput<'_>) -> Result<Box<dyn ModelWriter>, CheckpointError> {
        let config = self.config(output.plan);
        let files = config.as_ref().map(|c| self.config_files(c)).unwrap_or_default();
        let mut changes = Map::new();
        if let Some(object) = &config {
            for &key in self.config_keys() {
                changes.insert(key.into(), Value::Object(object.clone()));
            }
        }
        Ok(Box::new(ModelFolder::create(output, changes, files)?))
    }
}

/// What an output is made from.
#[derive(Clone, Copy, Debug)]
pub struct ModelOutput<'a> {
    /// Folder or file to write; must not exist.
    pub out: &'a Path,
    /// The model before: its configuration and tokenizer are carried over.
    pub original: &'a Checkpoint,
    /// All tensors: those of [`Container::tensors`], and the others as the original has them.
    pub specs: &'a [TensorSpec],
    /// What the modules are.
    pub plan: &'a PlanInfo<'a>,
    /// Bytes after which a new file of a folder begins.
    pub part_bytes: u64,
}

/// What a configuration says of the model: the scheme of each linear layer.
#[derive(Clone, Copy, Debug)]
pub struct PlanInfo<'a> {
    /// Every linear layer of the model, those that stay in float included, in the order of the model.
    pub modules: &'a [ModuleScheme],
    /// Damping of the solver as a fraction of the mean diagonal, for the record.
    pub damping: Option<f64>,
}

impl PlanInfo<'_> {
    /// The modules that do not stay in float.
    pub fn quantized(&self) -> impl Iterator<Item = &ModuleScheme> {
        self.modules.iter().filter(|m| m.scheme != Scheme::Float)
    }

    /// The modules that do.
    pub fn float(&self) -> impl Iterator<Item = &ModuleScheme> {
        self.modules.iter().filter(|m| m.scheme == Scheme::Float)
    }

    /// The quantized module of this name.
    pub fn module(&self, name: &str) -> Option<&ModuleScheme> {
        self.quantized().find(|m| m.module == name)
    }
}

/// The scheme of one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleScheme {
    /// Its name, such as `model.layers.0.mlp.down_proj`.
    pub module: String,
    /// Its shape.
    pub shape: MatrixShape,
    /// What it takes.
    pub scheme: Scheme,
    /// Whether its groups follow a map (act-order).
    pub group_map: bool,
}

/// What the configuration of a folder says of its quantization, for reading.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ContainerConfig {
    /// GPTQ, version 1 or 2.
    Gptq(GptqConfig),
    /// compressed-tensors.
    CompressedTensors(CompressedTensorsConfig),
    /// AWQ.
    Awq(AwqConfig),
    /// bitsandbytes.
    BitsAndBytes(BitsAndBytesConfig),
    /// FP8 with a scale for each block.
    Fp8(Fp8Config),
    /// An ONNX file.
    Onnx(OnnxConfig),
    /// MLX.
    Mlx(MlxConfig),
}

impl ContainerConfig {
    /// Endings of tensors that mark a module as quantized, in whichever container.
    pub(crate) const MARKS: [&str; 8] = [
        ".qweight",
        ".weight_packed",
        ".weight_scale",
        ".weight_scale_inv",
        ".weight.quant_state.bitsandbytes__nf4",
        ".weight.quant_state.bitsandbytes__fp4",
        ".SCB",
        ".scales",
    ];

    /// Reads a `quantization_config` object, or MLX's `quantization`; `file` is for messages.
    ///
    /// # Errors
    /// If the method is not one of those above, or a key has an impossible or unsupported value.
    pub fn parse(object: &Map<String, Value>, file: &Path) -> Result<Self, CheckpointError> {
        if MlxConfig::is_one(object) {
            return MlxConfig::parse(object, file).map(Self::Mlx);
        }
        let keys = Keys::new(object, file);
        // The own files of AutoGPTQ and AutoAWQ name no method.
        let method = keys.text("quant_method")?;
        let unnamed = if keys.get("zero_point").is_some() { "awq" } else { "gptq" };
        match method.unwrap_or(unnamed).to_ascii_lowercase().as_str() {
            "gptq" => GptqConfig::parse(&keys).map(Self::Gptq),
            "awq" => AwqConfig::parse(&keys).map(Self::Awq),
            "compressed-tensors" => {
                CompressedTensorsConfig::parse(&keys).map(Self::CompressedTensors)
            }
            "bitsandbytes" => BitsAndBytesConfig::parse(&keys).map(Self::BitsAndBytes),
            "fp8" => Fp8Config::parse(&keys).map(Self::Fp8),
            other => Err(keys.unsupported(
                "quant_method",
                other,
                "gptq, awq, compressed-tensors, bitsandbytes and fp8",
            )),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gptq(config) => config.version().name(),
            Self::CompressedTensors(_) => "compressed-tensors",
            Self::Awq(_) => "awq",
            Self::BitsAndBytes(_) => "bitsandbytes",
            Self::Fp8(_) => "fp8",
            Self::Onnx(_) => "onnx",
            Self::Mlx(_) => "mlx",
        }
    }

    /// Whether `source` holds the weight of this module in quantized form.
    pub fn holds(&self, source: &dyn TensorSource, module: &str) -> bool {
        self.codes(source, module).is_some()
    }

    /// The ending of the tensor that holds the codes of a module, if the module is quantized.
    pub(crate) fn codes(&self, source: &dyn TensorSource, module: &str) -> Option<&'static str> {
        let has = |suffix: &str| source.tensor(&format!("{module}{suffix}")).is_some();
        match self {
            Self::Gptq(_) | Self::Awq(_) => has(".qweight").then_some(".qweight"),
            Self::CompressedTensors(_) if has(".weight_packed") => Some(".weight_packed"),
            Self::CompressedTensors(_) => has(".weight_scale").then_some(".weight"),
            Self::BitsAndBytes(_) => BitsAndBytesConfig::holds(source, module).then_some(".weight"),
            Self::Fp8(_) => has(".weight_scale_inv").then_some(".weight"),
            Self::Mlx(_) => has(".scales").then_some(".weight"),
            // The node names it.
            Self::Onnx(config) => config.holds(module).then_some(".weight_Q"),
        }
    }

    /// Reads the weight of a module.
    ///
    /// # Errors
    /// If a tensor is missing, or type, shape or values contradict each other or the configuration.
    pub fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<Quantized, CheckpointError> {
        match self {
            Self::Gptq(config) => config.decode(source, module).map(Quantized::Int),
            Self::CompressedTensors(config) => config.decode(source, module),
            Self::Awq(config) => config.decode(source, module).map(Quantized::Int),
            Self::BitsAndBytes(_) => BitsAndBytesConfig::decode(source, module),
            Self::Fp8(config) => config.decode(source, module).map(Quantized::Float8),
            Self::Onnx(config) => config.decode(source, module).map(Quantized::Int),
            Self::Mlx(config) => config.decode(source, module),
        }
    }
}

/// A refusal as an error.
pub(crate) fn refuse<T>(
    container: &'static str,
    module: &str,
    refusal: Refusal,
) -> Result<T, CheckpointError> {
    Err(CheckpointError::Refused { container, module: module.to_owned(), refusal })
}

/// Name of the output layer, which readers leave in float unless told otherwise.
pub(crate) const HEAD: &str = "lm_head";

/// Refuses a plan whose quantized modules differ in a setting that the container has once for all of them.
pub(crate) fn check_same<T: PartialEq>(
    container: &'static str,
    plan: &PlanInfo<'_>,
    setting: impl Fn(&ModuleScheme) -> Result<T, CheckpointError>,
) -> Result<(), CheckpointError> {
    let mut first: Option<(&str, T)> = None;
    for m in plan.quantized() {
        let setting = setting(m)?;
        match &first {
            None => first = Some((&m.module, setting)),
            Some((_, of_all)) if *of_all == setting => {}
            Some((other, _)) => {
                let other = (*other).to_owned();
                return refuse(container, &m.module, Refusal::Differs { other });
            }
        }
    }
    Ok(())
}

/// Refuses a plan whose float modules cannot be excluded by name without excluding quantized ones as well: `excludes` says whether the name of
/// a float module, in the list of exclusions, catches another module. And one that quantizes the output layer.
pub(crate) fn check_names(
    container: &'static str,
    plan: &PlanInfo<'_>,
    excludes: impl Fn(&str, &str) -> bool,
) -> Result<(), CheckpointError> {
    for m in plan.quantized() {
        if m.module == HEAD {
            return refuse(container, HEAD, Refusal::Head);
        }
        if let Some(other) = plan.float().find(|float| excludes(&float.module, &m.module)) {
            let other = other.module.clone();
            return refuse(container, &m.module, Refusal::Excluded { other });
        }
    }
    Ok(())
}

/// The integer grid of a container that carries no others.
pub(crate) fn int_scheme<'a>(
    container: &'static str,
    module: &str,
    scheme: &'a Scheme,
) -> Result<&'a IntScheme, CheckpointError> {
    match scheme {
        Scheme::Int(scheme) => Ok(scheme),
        other => {
            let (scheme, supported) = (other.name(), "integer grids");
            refuse(container, module, Refusal::Scheme { scheme, supported })
        }
    }
}

/// The matrix of a container that carries integer grids alone.
pub(crate) fn int_matrix<'a>(
    container: &'static str,
    module: &str,
    matrix: &'a Quantized,
) -> Result<&'a QuantMatrix, CheckpointError> {
    match matrix {
        Quantized::Int(matrix) => Ok(matrix),
        other => {
            let (scheme, supported) = (other.scheme().name(), "integer grids");
            refuse(container, module, Refusal::Scheme { scheme, supported })
        }
    }
}

/// The value that occurs most, the earliest of several.
pub(crate) fn most_frequent<T: PartialEq>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(other, _)| *other == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(value, _)| value)
}

/// Values as bytes of a file.
pub(crate) fn le_bytes<T, const N: usize>(
    values: impl IntoIterator<Item = T>,
    to_bytes: impl Fn(T) -> [u8; N],
) -> Vec<u8> {
    values.into_iter().flat_map(to_bytes).collect()
}

/// Why a container cannot carry a matrix, and what would do.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A grid that it does not know.
    #[error("it has no layout for {scheme}, only for {supported}")]
    Scheme {
        /// The grid.
        scheme: &'static str,
        /// The grids it has.
        supported: &'static str,
    },
    /// A grid that is no block type.
    #[error(
        "{grid} is no block type: choose one, or symmetric integers of 4, 5 or 8 bits with f16 scales in groups of a multiple of 32"
    )]
    NoBlocks {
        /// The grid.
        grid: String,
    },
    /// A group map where columns lie in order.
    #[error("blocks follow the order of the columns: use act-order with static groups")]
    BlockGroupMap,
    /// Values that do not lie on the container's grid.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// A shape that the grid cannot have.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A code width it has no layout for.
    #[error("no layout for {} bits; {supported} are possible", bits.get())]
    Bits {
        /// The width.
        bits: Bits,
        /// The widths it has.
        supported: &'static str,
    },
    /// A granularity it has no layout for.
    #[error("no layout for one scale per {granularity}: use {remedy}")]
    Granularity {
        /// The granularity.
        granularity: &'static str,
        /// What would do.
        remedy: &'static str,
    },
    /// Scales of a type it does not store.
    #[error("its scales are {supported}, not {}", scale_type.name())]
    ScaleType {
        /// The type.
        scale_type: ScaleType,
        /// What it stores.
        supported: &'static str,
    },
    /// A ragged last group.
    #[error(
        "{in_features} input features are no multiple of the group size {group_size}, which engines refuse: take a divisor as group size, or keep the matrix in float"
    )]
    RaggedGroup {
        /// Columns.
        in_features: usize,
        /// Columns per group.
        group_size: usize,
    },
    /// A dimension that does not fill whole blocks.
    #[error(
        "{size} {axis} features are no multiple of the {multiple} that share a scale, which readers refuse: take a divisor, or keep the matrix in float"
    )]
    RaggedBlock {
        /// `input` or `output`.
        axis: &'static str,
        /// Features along it.
        size: usize,
        /// What they have to be a multiple of.
        multiple: usize,
    },
    /// A dimension that does not fill whole words.
    #[error(
        "{size} {axis} features are no multiple of {multiple}, which words of {}-bit codes need: keep the matrix in float or choose other bits", bits.get()
    )]
    Words {
        /// `input` or `output`.
        axis: &'static str,
        /// Features along it.
        size: usize,
        /// What they have to be a multiple of.
        multiple: usize,
        /// Width of a code.
        bits: Bits,
    },
    /// Rows that take as many words in the earlier layout as in the present one.
    #[error(
        "{in_features} input features of {}-bit codes take as many words in the earlier layout as in the present one, so that readers could confuse them: keep the matrix in float or choose 2, 4 or 8 bits", bits.get()
    )]
    AmbiguousWords {
        /// Columns.
        in_features: usize,
        /// Width of a code.
        bits: Bits,
    },
    /// Act-order without a place for the group map.
    #[error("no place for a group map: use act-order with static groups, or the gptq container")]
    GroupMap,
    /// Groups of unequal size in a group map.
    #[error("group {group} has {got} columns instead of {expected}, which engines refuse")]
    UnequalGroups {
        /// The group.
        group: usize,
        /// Its columns.
        got: usize,
        /// The group size.
        expected: usize,
    },
    /// A zero point it cannot store.
    #[error(
        "row {row}, group {group} has zero point {zero_point}, but gptq version 1 stores the zero point less one, and engines disagree on -1: fit with zero points from 1 on, or write gptq version 2"
    )]
    ZeroPoint {
        /// Output channel.
        row: usize,
        /// Group.
        group: usize,
        /// The zero point.
        zero_point: u8,
    },
    /// A group size that a layout has no room for.
    #[error("no layout for groups of {group_size}: use {remedy}")]
    GroupSize {
        /// Columns per group.
        group_size: usize,
        /// What would do.
        remedy: &'static str,
    },
    /// A scale of the whole matrix without a place.
    #[error(
        "no place for the scale {global_scale} of the whole matrix: use mxfp4, or compressed-tensors"
    )]
    GlobalScale {
        /// The scale.
        global_scale: f32,
    },
    /// Settings that differ within a model.
    #[error(
        "its settings are not those of {other}, and the configuration has one place for all: use one grid for the whole model, or the gptq or compressed-tensors container"
    )]
    Differs {
        /// A module with other settings.
        other: String,
    },
    /// A name that the exclusion of another module catches.
    #[error(
        "{other} stays in float, and readers who exclude it by name would exclude this module as well: treat both alike"
    )]
    Excluded {
        /// The float module.
        other: String,
    },
    /// A quantized output layer.
    #[error("readers take the output layer for a float matrix: keep it in float")]
    Head,
    /// A matrix without weights.
    #[error("the matrix {out_features}x{in_features} is empty")]
    Empty {
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
    },
}
