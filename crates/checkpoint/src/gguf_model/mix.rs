//! The standard mixes of llama.cpp: which type each matrix takes in a file called `Q4_K_M` and the like.
//!
//! Values, down projections and outputs hurt most when they lose bits, so they get more. The rules are those of `llama-quantize` for models
//! without experts (`src/llama-quant.cpp`, `llama_tensor_get_type_impl`).

use fewbit_format::{Plan, Scheme};

use crate::{TensorInfo, gguf::GgmlType};

use super::{FileType, GgufArch, Hparams, Renamed, TensorNames, names::stays_f32};

/// Which type each matrix of a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    file_type: FileType,
    n_layers: u32,
    /// Query heads for each key and value head.
    gqa: u32,
    tied: bool,
    importance: bool,
    /// A Llama or Qwen of 80 layers, whose values are few and get more bits.
    is_70b: bool,
}

impl Mix {
    /// The mix of a file type for a model. `importance` says whether an importance matrix is at hand: some types are then chosen otherwise.
    pub fn new(file_type: FileType, hparams: &Hparams, importance: bool) -> Self {
        let gqa = hparams.heads / hparams.kv_heads;
        let is_70b = hparams.n_layers == 80
            && match hparams.arch {
                GgufArch::Llama => gqa != 1,
                GgufArch::Qwen2 => true,
                _ => false,
            };
        Self { file_type, n_layers: hparams.n_layers, gqa, tied: hparams.tied, importance, is_70b }
    }

    /// The type of a tensor by its GGUF name, the number of its dimensions, and its input features. A row that is no whole number of
    /// blocks takes a type of smaller blocks, or F16.
    pub fn kind(&self, gguf_name: &str, rank: usize, in_features: usize) -> GgmlType {
        if stays_f32(gguf_name, rank) {
            return GgmlType::F32;
        }
        let base = self.file_type.base();
        match base {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => base,
            _ => fit(self.wanted(gguf_name, in_features), in_features),
        }
    }

    /// The mix as a plan over the modules of a Hugging Face model, embedding and head among them. Modules that are to have a float type keep
    /// their own.
    pub fn plan<'a>(
        &self,
        names: &TensorNames,
        tensors: impl IntoIterator<Item = &'a TensorInfo>,
    ) -> Plan {
        let mut plan = Plan::uniform(Scheme::Float);
        for info in tensors {
            let Some(module) = info.name.strip_suffix(".weight") else { continue };
            let Some(Renamed { name, .. }) = names.to_gguf(&info.name) else { continue };
            let in_features = info.shape.last().copied().unwrap_or(0);
            if let Some(block) = self.kind(&name, info.shape.len(), in_features).block() {
                plan = plan.with(module, Scheme::Block(block));
            }
        }
        plan
    }

    /// What the tensor takes if its rows divide.
    fn wanted(&self, name: &str, in_features: usize) -> GgmlType {
        use FileType::{
            Iq4Nl, Iq4Xs, Mxfp4Moe, Q2K, Q2KS, Q3KL, Q3KM, Q4_0, Q4KM, Q4KS, Q5_0, Q5KM,
        };
        let base = self.file_type.base();
        let (layer, module) = split(name);
        let n_layers = self.n_layers;
        // The first and the last eighth, and every third between.
        let more =
            layer < n_layers / 8 || layer >= 7 * n_layers / 8 || (layer - n_layers / 8) % 3 == 2;
        let first_eighth = layer < n_layers / 8;
        let shared = self.gqa >= 4;
        match (module, self.file_type) {
            ("output", _) | ("token_embd", _) if module == "output" || self.tied => match base {
                GgmlType::Q8_0 | GgmlType::Mxfp4 => GgmlType::Q8_0,
                _ if !(in_features as u64).is_multiple_of(base.block_weights()) => GgmlType::Q8_0,
                _ => GgmlType::Q6K,
            },
            (_, Mxfp4Moe) => GgmlType::Q8_0,
            ("attn_v" | "attn_qkv", file_type) => {
                let kind = match file_type {
                    Q2K if shared => GgmlType::Q4K,
                    Q2K => GgmlType::Q3K,
                    Q2KS if shared => GgmlType::Q4K,
                    Q3KM if layer < 2 => GgmlType::Q5K,
                    Q3KM => GgmlType::Q4K,
                    Q3KL => GgmlType::Q5K,
                    Iq4Nl | Iq4Xs if shared => GgmlType::Q5K,
                    Q4KM | Q5KM if more => GgmlType::Q6K,
                    Q4KS if layer < 4 => GgmlType::Q5K,
                    _ => base,
                };
                match kind {
                    GgmlType::Q3K | GgmlType::Q4K if self.is_70b => GgmlType::Q5K,
                    kind => kind,
                }
            }
            ("ffn_down", file_type) => match file_type {
                Q2K => GgmlType::Q3K,
                Q2KS if first_eighth => GgmlType::Q4K,
                Q3KM if layer < n_layers / 16 => GgmlType::Q5K,
                Q3KM => GgmlType::Q4K,
                Q3KL => GgmlType::Q5K,
                Q4KM | Q5KM if more => GgmlType::Q6K,
                Iq4Nl | Iq4Xs if first_eighth && !self.importance => GgmlType::Q5K,
                Q4KS if first_eighth => GgmlType::Q5K,
                Q4_0 if first_eighth && self.importance => GgmlType::Q4_1,
                Q5_0 if first_eighth && self.importance => GgmlType::Q5_1,
                _ => base,
            },
            ("attn_output", Q2K) => GgmlType::Q3K,
            ("attn_output", Q3KM) => GgmlType::Q4K,
            ("attn_output", Q3KL) => GgmlType::Q5K,
            _ => base,
        }
    }
}

/// `blk.3.attn_v.weight` to 3 and `attn_v`; 0 outside of the blocks.
fn split(name: &str) -> (u32, &str) {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let inner = module.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match inner {
        Some((layer, module)) => (layer.parse().unwrap_or(0), module),
        None => (0, module),
    }
}

/// The type itself, or the one that takes its place where rows are no whole number of its blocks.
fn fit(kind: GgmlType, in_features: usize) -> GgmlType {
    let divides = |kind: GgmlType| (in_features as u64).is_multiple_of(kind.block_weights());
    if divides(kind) {
        return kind;
    }
    let smaller = match kind {
        GgmlType::Q2K | GgmlType::Q3K => GgmlType::Q4_0,
        GgmlType::Q4K => GgmlType::Q5_0,
        GgmlType::Q5K => GgmlType::Q5_1,
        GgmlType::Q6K => GgmlType::Q8_0,
        GgmlType::Iq4Xs => GgmlType::Iq4Nl,
        other => other,
    };
    if divides(smaller) { smaller } else { GgmlType::F16 }
}
