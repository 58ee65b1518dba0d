//! The compressed-tensors container (llm-compressor, vLLM, transformers). Each grid has a format of its own:
//!
//! ```text
//! pack-quantized        integers of 2 to 8 bits in words
//!   <module>.weight_packed        I32  [out, ⌈in·bits/32⌉]      codes of consecutive inputs in a word, lowest first
//!   <module>.weight_scale              [out, groups], one group per channel
//!   <module>.weight_shape         I64  [2] = out, in
//!   <module>.weight_zero_point    I32  [⌈out·bits/32⌉, groups]  affine only: zero points of consecutive outputs in a word
//!   <module>.weight_g_idx         I32  [in]                     group of each input; read, no longer written by anyone
//! int-quantized         integers of 2 to 8 bits, a byte each
//!   <module>.weight               I8   [out, in]
//!   <module>.weight_scale              [1], [out, 1] or [out, groups]
//!   <module>.weight_zero_point    I8   affine only: like the scales
//! float-quantized       8-bit floats
//!   <module>.weight               F8_E4M3  [out, in]
//!   <module>.weight_scale              [1], [out, 1], [out, groups] or [⌈out/rows⌉, ⌈in/columns⌉]
//! mxfp4-pack-quantized  4-bit floats under powers of two
//!   <module>.weight_packed        U8   [out, in/2]              codes of inputs 2i (low nibble) and 2i + 1
//!   <module>.weight_scale         U8   [out, in/32]             E8M0
//! nvfp4-pack-quantized  4-bit floats under 8-bit floats
//!   <module>.weight_packed        U8   [out, in/2]
//!   <module>.weight_scale         F8_E4M3  [out, in/16]
//!   <module>.weight_global_scale  F32  [1]
//! naive-quantized       the tensors of int-quantized or float-quantized
//! all
//!   <module>.bias                      [out]                    as in the float model, if it has one
//! ```
//!
//! Scales without a type are F16, BF16 or F32. The format thinks of codes and zero points as signed, `q − 2^(bits − 1)`; words hold them as
//! unsigned, which is what a [`QuantMatrix`](fewbit_format::QuantMatrix) has. Words are one stream of bits. Until 2025, widths that do not divide 32
//! were packed in whole codes with unused bits on top (3 bits: ten a word): such files are recognised by the number of words and read.
//!
//! Settings are in `config_groups` of `quantization_config`: each names its modules in `targets` (a class name, a module name, or a regular
//! expression after `re:`); `ignore` names those that stay float. Where groups have several formats, the common one is `mixed-precision`.
//! Activations are left as they are unless [`InputRounding`] says otherwise; vLLM has kernels for `int-quantized` only where they are quantized too.

use fewbit_format::{MatrixShape, Quantized, ScaleType, Scheme};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, Container, Dtype, PlanInfo, Refusal, TensorSpec,
    config::patterns,
    container::{HEAD, le_bytes, most_frequent, refuse},
};

mod bytes;
mod float4;
mod pack;
mod read;
mod settings;

pub use read::CompressedTensorsConfig;
use settings::Settings;

/// The compressed-tensors container, for writing. The format follows from the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct CompressedTensors {
    /// How integers are laid out.
    pub integers: IntLayout,
    /// What engines do to the inputs of quantized layers.
    pub inputs: InputRounding,
}

/// How engines round the inputs of quantized layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum InputRounding {
    /// Not at all.
    #[default]
    Float,
    /// To signed bytes, with a scale for each token, found as they come: with a byte a code, "W8A8 dynamic".
    Int8PerToken,
    /// To signed bytes, with one scale for all inputs of a layer, which the file holds: "W8A8 static". Whoever writes the file adds the tensors that
    /// [`Container::input_scale`] names.
    Int8Static,
}

impl InputRounding {
    fn config(self) -> Value {
        match self {
            Self::Float => Value::Null,
            Self::Int8Static => json!({
                "num_bits": 8,
                "type": "int",
                "symmetric": true,
                "strategy": "tensor",
                "dynamic": false,
                "group_size": null,
                "block_structure": null,
                "actorder": null,
                "observer": "minmax",
                "observer_kwargs": {},
            }),
            Self::Int8PerToken => json!({
                "num_bits": 8,
                "type": "int",
                "symmetric": true,
                "strategy": "token",
                "dynamic": true,
                "group_size": null,
                "block_structure": null,
                "actorder": null,
                "observer": null,
                "observer_kwargs": {},
            }),
        }
    }
}

/// Where the codes of integer grids lie in compressed-tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum IntLayout {
    /// In words: `pack-quantized`.
    #[default]
    Packed,
    /// A byte each: `int-quantized`.
    Bytes,
    /// A byte each, under the name `naive-quantized`; so are 8-bit floats.
    Naive,
}

const NAME: &str = "compressed-tensors";
/// Class name by which `targets` mean every linear layer.
const CLASS: &str = "Linear";

/// Tensors and their bytes.
type Encoded = Vec<(TensorSpec, Vec<u8>)>;

impl Container for CompressedTensors {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Scales have the type of the model's weights.
    fn scale_type(&self, model: Dtype) -> ScaleType {
        match model {
            Dtype::F16 => ScaleType::F16,
            Dtype::BF16 => ScaleType::BF16,
            _ => ScaleType::F32,
        }
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let MatrixShape { out_features, in_features } = shape;
        if shape.is_empty() {
            return refuse(NAME, module, Refusal::Empty { out_features, in_features });
        }
        if has_group_map {
            return refuse(NAME, module, Refusal::GroupMap);
        }
        match (scheme, self.integers) {
            (Scheme::Int(scheme), IntLayout::Packed) => pack::check(module, shape, scheme),
            (Scheme::Int(scheme), _) => bytes::check_int(module, shape, scheme),
            (Scheme::Float8(scheme), _) => bytes::check_float8(module, shape, scheme),
            (Scheme::Float4(scheme), _) => float4::check(module, shape, *scheme),
            (other, _) => {
                let scheme = other.name();
                let supported = "integer grids, fp8 e4m3, mxfp4 and nvfp4";
                refuse(NAME, module, Refusal::Scheme { scheme, supported })
            }
        }
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Vec<TensorSpec> {
        match (scheme, self.integers) {
            (Scheme::Int(scheme), IntLayout::Packed) => pack::tensors(module, shape, scheme),
            (Scheme::Int(scheme), _) => bytes::int_tensors(module, shape, scheme),
            (Scheme::Float8(scheme), _) => bytes::float8_tensors(module, shape, scheme),
            (Scheme::Float4(scheme), _) => float4::tensors(module, shape, *scheme),
            _ => Vec::new(),
        }
    }

    fn encode(&self, module: &str, matrix: &Quantized) -> Result<Encoded, CheckpointError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        self.check(module, shape, &scheme, matrix.group_of_column().is_some())?;
        let bytes = match (matrix, self.integers) {
            (Quantized::Int(matrix), IntLayout::Packed) => pack::encode(matrix),
            (Quantized::Int(matrix), _) => bytes::encode_int(matrix),
            (Quantized::Float8(matrix), _) => bytes::encode_float8(matrix),
            (Quantized::Float4(matrix), _) => float4::encode(matrix),
            _ => unreachable!("refused above"),
        };
        let specs = self.tensors(module, shape, &scheme, false);
        Ok(specs.into_iter().zip(bytes).collect())
    }

    fn input_scale(&self, module: &str) -> Option<TensorSpec> {
        let fixed = self.inputs == InputRounding::Int8Static;
        let name = format!("{module}.input_scale");
        fixed.then(|| TensorSpec { name, dtype: Dtype::F32, shape: vec![1] })
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let quantized = || {
            plan.modules.iter().filter_map(|m| Some((m, Settings::of(&m.scheme, self.integers)?)))
        };
        let default = most_frequent(quantized().map(|(_, settings)| settings))?;
        let mut groups: Vec<(Settings, Vec<String>)> = vec![(default, Vec::new())];
        for (pattern, settings) in patterns(quantized()) {
            let target = format!("re:{pattern}");
            match groups.iter_mut().find(|(other, _)| *other == settings) {
                Some((_, targets)) => targets.push(target),
                None => groups.push((settings, vec![target])),
            }
        }
        // One scheme for all: by class, which every reader knows. Several: by name, so that no module has two.
        if let [(_, targets)] = &mut groups[..] {
            *targets = vec![CLASS.to_owned()];
        }
        let format = |settings: &Settings| settings.format(self.integers == IntLayout::Naive);
        let common = format(&default);
        let mixed = groups.iter().any(|(settings, _)| format(settings) != common);
        let groups = groups.into_iter().enumerate().map(|(i, (settings, targets))| {
            let mut group = json!({
                "targets": targets,
                "weights": settings.config(),
                "input_activations": self.inputs.config(),
                "output_activations": null,
            });
            if mixed {
                group["format"] = json!(format(&settings));
            }
            (format!("group_{i}"), group)
        });
        let mut ignore: Vec<&str> = plan.float().map(|m| m.module.as_str()).collect();
        if !plan.modules.iter().any(|m| m.module == HEAD) {
            ignore.push(HEAD);
        }
        let config = json!({
            "quant_method": NAME,
            "format": if mixed { MIXED } else { common },
            "quantization_status": "compressed",
            "global_compression_ratio": null,
            "kv_cache_scheme": null,
            "ignore": ignore,
            "config_groups": groups.collect::<Map<_, _>>(),
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Some(config)
    }
}

/// The common format of groups that have several.
const MIXED: &str = "mixed-precision";

/// The type of stored scales.
fn scale_dtype(scale_type: ScaleType) -> Dtype {
    match scale_type {
        ScaleType::F16 => Dtype::F16,
        ScaleType::BF16 => Dtype::BF16,
        ScaleType::F32 => Dtype::F32,
    }
}

/// Scales as bytes of a file.
fn scale_bytes(scales: &[f32], scale_type: ScaleType) -> Vec<u8> {
    use fewbit_format::{bf16, f16};
    let scales = scales.iter().copied();
    match scale_type {
        ScaleType::F16 => le_bytes(scales, |s| f16::from_f32(s).to_le_bytes()),
        ScaleType::BF16 => le_bytes(scales, |s| bf16::from_f32(s).to_le_bytes()),
        ScaleType::F32 => le_bytes(scales, f32::to_le_bytes),
    }
}
