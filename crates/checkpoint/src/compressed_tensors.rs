//! The compressed-tensors container in its `pack-quantized` format (llm-compressor, vLLM, transformers).
//!
//! ```text
//! <module>.weight_packed      I32  [out, ⌈in·bits/32⌉]      codes of consecutive inputs in a word, lowest first
//! <module>.weight_scale       F16, BF16 or F32  [out, groups], one group per channel
//! <module>.weight_shape       I64  [2] = out, in
//! <module>.weight_zero_point  I32  [⌈out·bits/32⌉, groups]  affine only: zero points of consecutive outputs in a word
//! <module>.weight_g_idx       I32  [in]                     group of each input; read, no longer written by anyone
//! <module>.bias                    [out]                    as in the float model, if it has one
//! ```
//!
//! The format thinks of codes and zero points as signed, `q − 2^(bits − 1)`, and packs them as unsigned, which is what a [`QuantMatrix`] holds.
//! Words are one stream of bits. Until 2025, widths that do not divide 32 were packed in whole codes with unused bits on top (3 bits: ten a
//! word): such files are recognised by the number of words and read.
//!
//! Settings are in `config_groups` of `quantization_config`: each names its modules in `targets` (a class name, a module name, or a regular
//! expression after `re:`); `ignore` names those that stay float.

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, Quantized, ScaleType, Scheme, Symmetry, bf16, f16,
    packing::{Words, pack_rows, transpose},
};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, Container, Dtype, PlanInfo, Refusal, TensorSpec,
    config::patterns,
    container::{int_matrix, int_scheme, le_bytes, most_frequent, refuse},
};

mod read;

pub use read::CompressedTensorsConfig;

/// The compressed-tensors container in its `pack-quantized` format, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct CompressedTensors;

const NAME: &str = "compressed-tensors";
const FORMAT: &str = "pack-quantized";
/// Class name by which `targets` mean every linear layer.
const CLASS: &str = "Linear";
/// The output layer, which is ignored by name where it stays float.
const HEAD: &str = "lm_head";

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
        let scheme = int_scheme(NAME, module, scheme)?;
        let refuse = |refusal| refuse(NAME, module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if has_group_map {
            return refuse(Refusal::GroupMap);
        }
        let bits = scheme.bits;
        let words = |layout: Words| layout.count(in_features, bits);
        if 32 % bits.get() > 0 && words(Words::Dense) == words(Words::Padded) {
            return refuse(Refusal::AmbiguousWords { in_features, bits });
        }
        match scheme.granularity {
            Granularity::Group(size) if !in_features.is_multiple_of(size.get() as usize) => {
                let group_size = size.get() as usize;
                refuse(Refusal::RaggedGroup { in_features, group_size })
            }
            Granularity::Group(_) | Granularity::Channel => Ok(()),
            Granularity::Tensor => {
                let remedy = "one per channel or group";
                refuse(Refusal::Granularity { granularity: "tensor", remedy })
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
        let Scheme::Int(scheme) = scheme else { return Vec::new() };
        let MatrixShape { out_features: out, in_features } = shape;
        let n_groups = scheme.granularity.n_groups(in_features);
        let words = |count| Words::Dense.count(count, scheme.bits);
        let spec = |part, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.{part}"), dtype, shape)
        };
        let scale = match scheme.scale_type {
            ScaleType::F16 => Dtype::F16,
            ScaleType::BF16 => Dtype::BF16,
            ScaleType::F32 => Dtype::F32,
        };
        let mut specs = vec![
            spec("weight_packed", Dtype::I32, &[out, words(in_features)]),
            spec("weight_scale", scale, &[out, n_groups]),
            spec("weight_shape", Dtype::I64, &[2]),
        ];
        if scheme.symmetry == Symmetry::Affine {
            specs.push(spec("weight_zero_point", Dtype::I32, &[words(out), n_groups]));
        }
        specs
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let matrix = int_matrix(NAME, module, matrix)?;
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        let MatrixShape { out_features: out, in_features } = shape;
        let has_map = matrix.group_of_column().is_some();
        self.check(module, shape, &scheme.into(), has_map)?;
        let pack = |codes: &[u8], rows, columns| {
            pack_rows(codes, rows, columns, scheme.bits, Words::Dense)
        };

        let scales = matrix.scales().iter().copied();
        let mut bytes = vec![
            le_bytes(pack(matrix.codes(), out, in_features), u32::to_le_bytes),
            match scheme.scale_type {
                ScaleType::F16 => le_bytes(scales, |s| f16::from_f32(s).to_le_bytes()),
                ScaleType::BF16 => le_bytes(scales, |s| bf16::from_f32(s).to_le_bytes()),
                ScaleType::F32 => le_bytes(scales, f32::to_le_bytes),
            },
            le_bytes([out as u64, in_features as u64], u64::to_le_bytes),
        ];
        if scheme.symmetry == Symmetry::Affine {
            let n_groups = matrix.n_groups();
            let words = pack(&transpose(matrix.zero_points(), out, n_groups), n_groups, out);
            let words = transpose(&words, n_groups, Words::Dense.count(out, scheme.bits));
            bytes.push(le_bytes(words, u32::to_le_bytes));
        }
        let specs = self.tensors(module, shape, &scheme.into(), has_map);
        Ok(specs.into_iter().zip(bytes).collect())
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let quantized = || {
            plan.modules.iter().filter_map(|m| match m.scheme {
                Scheme::Int(scheme) => Some((m, Settings::of(&scheme))),
                _ => None,
            })
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
        let groups = groups.into_iter().enumerate().map(|(i, (settings, targets))| {
            let group = json!({
                "targets": targets,
                "weights": settings.config(),
                "input_activations": null,
                "output_activations": null,
            });
            (format!("group_{i}"), group)
        });
        let float = plan.modules.iter().filter(|m| m.scheme == Scheme::Float);
        let mut ignore: Vec<&str> = float.map(|m| m.module.as_str()).collect();
        if !plan.modules.iter().any(|m| m.module == HEAD) {
            ignore.push(HEAD);
        }
        let config = json!({
            "quant_method": NAME,
            "format": FORMAT,
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

/// What the configuration says of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    bits: Bits,
    symmetry: Symmetry,
    granularity: Granularity,
}

impl Settings {
    fn of(scheme: &IntScheme) -> Self {
        let IntScheme { bits, symmetry, granularity, .. } = *scheme;
        Self { bits, symmetry, granularity }
    }

    fn config(self) -> Value {
        let group_size = match self.granularity {
            Granularity::Group(size) => Some(size.get()),
            _ => None,
        };
        json!({
            "num_bits": self.bits.get(),
            "type": "int",
            "symmetric": self.symmetry == Symmetry::Symmetric,
            "strategy": self.granularity.name(),
            "group_size": group_size,
            "dynamic": false,
        })
    }
}
