//! Legacy models into GGUF files, tensor by tensor.
//!
//! Rows of queries and keys lie alike in both, and so do blocks of the last version. Older blocks have scales of 32 bits: they move where all of these are
//! values of an f16, and become f32 where the caller allows it. Values never change.

use std::{borrow::Cow, path::Path};

use fewbit_format::{BlockType, Quantized, Scheme};

use super::{GgmlVersion, LegacyFile, LegacyTensor, Token};
use crate::{
    CheckpointError,
    container::le_bytes,
    gguf::{GgmlType, GgufSpec, GgufWriter},
    gguf_model::{
        FileType, GgufArch, Hparams, RopeParameters, RopeScaling, SpecialTokens, TokenType,
        Vocabulary, VocabularyModel, metadata,
    },
};

/// What a legacy file leaves out, and what may become of it.
#[derive(Clone, Debug, Default)]
pub struct LegacySettings {
    /// Added to the mean square before the root. GGML files do not say it: 1e-6 in LLaMA, 1e-5 in Llama 2. llama2.c fixes it at 1e-5.
    pub norm_eps: Option<f32>,
    /// Longest text that the model was made for. GGML files do not say it: 2048 in LLaMA, 4096 in Llama 2. llama2.c's do.
    pub context_length: Option<u32>,
    /// Tokens by id: [`llama2c_vocabulary`](super::llama2c_vocabulary). GGML files have their own.
    pub vocabulary: Option<Vec<Token>>,
    /// Whether matrices whose scales no f16 holds become f32. They are refused otherwise.
    pub widen: bool,
}

impl LegacyFile {
    /// Writes the model as a GGUF file; one tensor is in memory at a time.
    ///
    /// # Errors
    /// If the file leaves out something that `settings` does not say, a tensor is missing, unknown or does not fit the others, a matrix would have to
    /// become wider and must not, or the output cannot be written.
    pub fn write_gguf(&self, out: &Path, settings: &LegacySettings) -> Result<(), CheckpointError> {
        let tensors = self.tensors();
        let hparams = self.hparams(&tensors, settings)?;
        let vocabulary = vocabulary(self.tokens(settings)?, self.scores())?;
        if vocabulary.tokens.len() != hparams.vocab_size as usize {
            let (got, expected) = (vocabulary.tokens.len(), hparams.vocab_size as usize);
            return Err(CheckpointError::LegacyVocabulary { got, expected });
        }
        let mut specs = Vec::new();
        for tensor in &tensors {
            let name = gguf_name(&tensor.name)?;
            if hparams.shape(&name).is_some_and(|shape| {
                !shape.iter().rev().map(|&d| d as u64).eq(tensor.dims.iter().copied())
            }) {
                return Err(shape_error(tensor, &hparams, &name));
            }
            specs.push(GgufSpec::new(name, self.kind(tensor, settings)?, tensor.dims.clone()));
        }
        let kinds = specs.iter().filter(|spec| spec.dims.len() > 1).map(|spec| spec.kind);
        let (file_type, name) =
            (FileType::of_kinds(kinds), out.file_stem().unwrap_or_default().to_string_lossy());
        let metadata = metadata(&name, file_type, &hparams, &vocabulary, &specs);
        for required in hparams.names().required(hparams.n_layers as usize) {
            if specs.iter().all(|spec| spec.name != required) {
                let problem = "is missing";
                return Err(CheckpointError::GgufTensor { tensor: required, problem });
            }
        }
        let mut writer = GgufWriter::create(out, &metadata, specs.clone(), None)?;
        for (tensor, spec) in tensors.iter().zip(&specs) {
            writer.write(&spec.name, &self.bytes(tensor, spec.kind)?)?;
        }
        writer.finish()?;
        Ok(())
    }

    fn hparams(
        &self,
        tensors: &[LegacyTensor],
        settings: &LegacySettings,
    ) -> Result<Hparams, CheckpointError> {
        let unsaid = |what, remedy| CheckpointError::LegacySetting { what, remedy };
        let of = |name: &str| tensors.iter().find(|t| t.name == name);
        let rows = |name: &str| {
            of(name).and_then(|t| t.dims.get(1)).copied().ok_or_else(|| {
                CheckpointError::GgufTensor { tensor: name.to_owned(), problem: "is missing" }
            })
        };
        let (n_layers, hidden_size, heads, vocab_size, norm_eps, context_length) = match self {
            Self::Ggml(file) => {
                let p = file.hyperparameters();
                let eps = "its norm epsilon: it is 1e-6 in LLaMA and 1e-5 in Llama 2";
                let context = "its longest text: it is 2048 in LLaMA and 4096 in Llama 2";
                (
                    p.n_layer,
                    p.n_embd,
                    p.n_head,
                    p.n_vocab,
                    settings.norm_eps.ok_or_else(|| unsaid(eps, "give it"))?,
                    settings.context_length.ok_or_else(|| unsaid(context, "give it"))?,
                )
            }
            Self::Llama2c(file) => {
                let p = file.parameters();
                // Its header has 32-bit numbers.
                let [layers, dim, heads, vocab, length] =
                    [p.n_layers, p.dim, p.n_heads, p.vocab_size, p.seq_len].map(|v| v as u32);
                let length = settings.context_length.unwrap_or(length);
                (layers, dim, heads, vocab, settings.norm_eps.unwrap_or(1e-5), length)
            }
        };
        if heads == 0 || hidden_size == 0 || !hidden_size.is_multiple_of(2 * heads) {
            let (tensor, problem) = ("tok_embeddings.weight", "has no even heads");
            return Err(CheckpointError::GgufTensor { tensor: tensor.to_owned(), problem });
        }
        let head_dim = hidden_size / heads;
        Ok(Hparams {
            arch: GgufArch::Llama,
            n_layers,
            context_length,
            hidden_size,
            intermediate_size: rows("layers.0.feed_forward.w1.weight")? as u32,
            heads,
            kv_heads: rows("layers.0.attention.wk.weight")? as u32 / head_dim,
            head_dim,
            vocab_size,
            norm_eps,
            rope: Some(RopeParameters { theta: 10_000.0, scaling: RopeScaling::Default }),
            window: None,
            final_logit_softcap: None,
            attention_bias: false,
            mlp_bias: false,
            tied: of("output.weight").is_none(),
        })
    }

    fn tokens<'a>(&'a self, settings: &'a LegacySettings) -> Result<&'a [Token], CheckpointError> {
        match (self, &settings.vocabulary) {
            (_, Some(tokens)) => Ok(tokens),
            (Self::Ggml(file), None) => Ok(file.vocabulary()),
            (Self::Llama2c(_), None) => Err(CheckpointError::LegacySetting {
                what: "its tokens",
                remedy: "give the tokenizer.bin that belongs to it",
            }),
        }
    }

    /// Whether its tokens have scores.
    fn scores(&self) -> bool {
        !matches!(self, Self::Ggml(file) if file.version() == GgmlVersion::Ggml)
    }

    /// What a tensor becomes.
    fn kind(
        &self,
        tensor: &LegacyTensor,
        settings: &LegacySettings,
    ) -> Result<GgmlType, CheckpointError> {
        let plain = matches!(tensor.kind, GgmlType::F32 | GgmlType::F16);
        if tensor.dims.len() < 2 || plain && tensor.kind == GgmlType::F32 {
            return Ok(GgmlType::F32);
        }
        let kind = if tensor.kind == GgmlType::I8 { GgmlType::Q8_0 } else { tensor.kind };
        match self.blocks(tensor)? {
            Some(_) => Ok(kind),
            None if settings.widen => Ok(GgmlType::F32),
            None => Err(CheckpointError::LegacyScales { tensor: tensor.name.clone(), kind }),
        }
    }

    /// The bytes of a matrix in the type that GGUF has for it. `None` if a scale is no f16, or groups are none of that type.
    fn blocks(&self, tensor: &LegacyTensor) -> Result<Option<Cow<'_, [u8]>>, CheckpointError> {
        match self {
            Self::Ggml(file) => file.read_modern(&tensor.name),
            Self::Llama2c(file) => {
                let Some(matrix) = file.quant_matrix(&tensor.name)? else { return Ok(None) };
                let blocks = Quantized::Int(matrix).relay(&Scheme::Block(BlockType::Q8_0));
                Ok(match blocks {
                    Ok(Quantized::Block(blocks)) => Some(blocks.into_data().into()),
                    _ => None,
                })
            }
        }
    }

    fn bytes(
        &self,
        tensor: &LegacyTensor,
        kind: GgmlType,
    ) -> Result<Cow<'_, [u8]>, CheckpointError> {
        if kind != GgmlType::F32
            && let Some(blocks) = self.blocks(tensor)?
        {
            return Ok(blocks);
        }
        Ok(le_bytes(self.read_f32(&tensor.name)?, f32::to_le_bytes).into())
    }
}

fn shape_error(tensor: &LegacyTensor, hparams: &Hparams, name: &str) -> CheckpointError {
    let got = tensor.dims.iter().rev().map(|&d| d as usize).collect();
    let expected = hparams.shape(name).unwrap_or_default();
    CheckpointError::Shape { tensor: tensor.name.clone(), got, expected }
}

/// Meta's name of a tensor as GGUF has it.
fn gguf_name(name: &str) -> Result<String, CheckpointError> {
    let whole = match name {
        "tok_embeddings.weight" => Some("token_embd.weight"),
        "norm.weight" => Some("output_norm.weight"),
        "output.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Ok(whole.to_owned());
    }
    let layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let inner = layer.and_then(|(_, inner)| {
        Some(match inner {
            "attention_norm.weight" => "attn_norm.weight",
            "attention.wq.weight" => "attn_q.weight",
            "attention.wk.weight" => "attn_k.weight",
            "attention.wv.weight" => "attn_v.weight",
            "attention.wo.weight" => "attn_output.weight",
            "ffn_norm.weight" => "ffn_norm.weight",
            "feed_forward.w1.weight" => "ffn_gate.weight",
            "feed_forward.w2.weight" => "ffn_down.weight",
            "feed_forward.w3.weight" => "ffn_up.weight",
            _ => return None,
        })
    });
    match (layer, inner) {
        (Some((number, _)), Some(inner)) => Ok(format!("blk.{number}.{inner}")),
        _ => Err(CheckpointError::GgufTensor {
            tensor: name.to_owned(),
            problem: "is none of a LLaMA model",
        }),
    }
}

/// Tokens of SentencePiece. Without scores, pairs are joined in the order of the ids, which is that of LLaMA's own vocabulary.
fn vocabulary(tokens: &[Token], has_scores: bool) -> Result<Vocabulary, CheckpointError> {
    let (mut texts, mut types) = (Vec::new(), Vec::new());
    for (id, token) in tokens.iter().enumerate() {
        let (text, kind) = match (id, token.text.as_slice()) {
            (0, _) => ("<unk>".to_owned(), TokenType::Unknown),
            (1, _) => ("<s>".to_owned(), TokenType::Control),
            (2, _) => ("</s>".to_owned(), TokenType::Control),
            (_, []) => (String::new(), TokenType::Control),
            (3..=258, [byte]) => (format!("<0x{byte:02X}>"), TokenType::Byte),
            (3..=258, text @ [b'<', b'0', b'x', _, _, b'>']) => {
                (String::from_utf8_lossy(text).into_owned(), TokenType::Byte)
            }
            (_, text) => match std::str::from_utf8(text) {
                Ok(text) => (text.replace(' ', "▁"), TokenType::Normal),
                Err(_) => return Err(CheckpointError::LegacyToken { id }),
            },
        };
        texts.push(text);
        types.push(kind);
    }
    let scores = match has_scores {
        true => tokens.iter().map(|token| token.score).collect(),
        false => (0..tokens.len()).map(|id| -(id.saturating_sub(259) as f32)).collect(),
    };
    Ok(Vocabulary {
        tokens: texts,
        types,
        model: VocabularyModel::SentencePiece { scores, add_space_prefix: true },
        special: SpecialTokens { bos: Some(1), eos: Some(2), unk: Some(0), ..Default::default() },
        add_bos: true,
        add_eos: false,
        chat_template: None,
    })
}
