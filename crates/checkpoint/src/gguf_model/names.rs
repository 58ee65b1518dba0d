//! Tensor names both ways.

use super::{GgufArch, Relay};

/// What the names and the relays of an architecture depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorNames {
    /// The architecture.
    pub arch: GgufArch,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
}

/// Modules outside of the blocks: GGUF, Hugging Face.
type Pairs = &'static [(&'static str, &'static str)];

const LLAMA_ENDS: Pairs =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const GPT2_ENDS: Pairs = &[
    ("token_embd", "transformer.wte"),
    ("position_embd", "transformer.wpe"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
];
const EXAONE_ENDS: Pairs = &[
    ("token_embd", "transformer.wte"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
];

const ATTENTION: Pairs = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
];
const HEAD_NORMS: Pairs =
    &[("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
const MLP: Pairs =
    &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];
const LLAMA_NORMS: Pairs =
    &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
const GEMMA3_NORMS: Pairs = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const GPT2_BLOCK: Pairs = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];
const EXAONE_BLOCK: Pairs = &[
    ("attn_norm", "ln_1"),
    ("attn_q", "attn.attention.q_proj"),
    ("attn_k", "attn.attention.k_proj"),
    ("attn_v", "attn.attention.v_proj"),
    ("attn_output", "attn.attention.out_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_gate", "mlp.c_fc_0"),
    ("ffn_up", "mlp.c_fc_1"),
    ("ffn_down", "mlp.c_proj"),
];

/// A tensor's name in the other kind of file, and how it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// Its name there.
    pub name: String,
    /// How it is re-laid between the two.
    pub relay: Relay,
}

/// The tensor of GGUF files that stands for a rotary scaling, and has no counterpart in a Hugging Face model.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

impl TensorNames {
    fn ends(self) -> Pairs {
        match self.arch {
            GgufArch::Gpt2 => GPT2_ENDS,
            GgufArch::Exaone => EXAONE_ENDS,
            _ => LLAMA_ENDS,
        }
    }

    fn block(self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        let parts: &[Pairs] = match self.arch {
            GgufArch::Llama | GgufArch::Qwen2 => &[LLAMA_NORMS, ATTENTION, MLP],
            GgufArch::Qwen3 => &[LLAMA_NORMS, ATTENTION, HEAD_NORMS, MLP],
            GgufArch::Gemma3 => &[GEMMA3_NORMS, ATTENTION, HEAD_NORMS, MLP],
            GgufArch::Gpt2 => &[GPT2_BLOCK],
            GgufArch::Exaone => &[EXAONE_BLOCK],
        };
        parts.iter().copied().flatten()
    }

    /// What stands before the number of a block in a Hugging Face model.
    const fn layers(self) -> &'static str {
        match self.arch {
            GgufArch::Gpt2 | GgufArch::Exaone => "transformer.h.",
            _ => "model.layers.",
        }
    }

    /// How the tensor of a GGUF module (`attn_q`) is re-laid. `part` is `weight` or `bias`.
    fn relay(self, module: &str, part: &str) -> Relay {
        match (self.arch, module) {
            (GgufArch::Llama, "attn_q") => Relay::Interleave { heads: self.heads },
            (GgufArch::Llama, "attn_k") => Relay::Interleave { heads: self.kv_heads },
            (GgufArch::Gemma3, norm) if norm.ends_with("_norm") => Relay::AddOne,
            (GgufArch::Gpt2, "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down")
                if part == "weight" =>
            {
                Relay::Transpose
            }
            _ => Relay::AsIs,
        }
    }

    /// The GGUF name of a Hugging Face tensor; `None` if this architecture has no such tensor. GPT-2's names are taken with and without
    /// the prefix `transformer.`.
    pub fn to_gguf(self, name: &str) -> Option<Renamed> {
        let (module, part) = split_part(name)?;
        let full;
        let module = match self.arch {
            GgufArch::Gpt2 if !module.starts_with("transformer.") && module != "lm_head" => {
                full = format!("transformer.{module}");
                &full
            }
            _ => module,
        };
        if let Some((gguf, _)) = self.ends().iter().find(|(_, hf)| *hf == module) {
            let (name, relay) = (format!("{gguf}.{part}"), self.relay(gguf, part));
            return Some(Renamed { name, relay });
        }
        let (layer, inner) = split_layer(module.strip_prefix(self.layers())?)?;
        let (gguf, _) = self.block().find(|(_, hf)| *hf == inner)?;
        let (name, relay) = (format!("blk.{layer}.{gguf}.{part}"), self.relay(gguf, part));
        Some(Renamed { name, relay })
    }

    /// The Hugging Face name of a GGUF tensor; `None` if this architecture has no such tensor, or it is [`ROPE_FREQS`].
    pub fn to_hugging_face(self, name: &str) -> Option<Renamed> {
        let (module, part) = split_part(name)?;
        if let Some((gguf, hf)) = self.ends().iter().find(|(gguf, _)| *gguf == module) {
            let (name, relay) = (format!("{hf}.{part}"), self.relay(gguf, part));
            return Some(Renamed { name, relay });
        }
        let (layer, inner) = split_layer(module.strip_prefix("blk.")?)?;
        let (gguf, hf) = self.block().find(|(gguf, _)| *gguf == inner)?;
        let name = format!("{}{layer}.{hf}.{part}", self.layers());
        Some(Renamed { name, relay: self.relay(gguf, part) })
    }

    /// GGUF names of the tensors without which llama.cpp does not load a model of so many blocks; a head of its own is not among them.
    pub fn required(self, n_layers: usize) -> impl Iterator<Item = String> {
        let biased = self.arch == GgufArch::Gpt2;
        let with_bias = move |module: String, bias: bool| {
            let bias = bias.then(|| format!("{module}.bias"));
            [Some(format!("{module}.weight")), bias].into_iter().flatten()
        };
        let ends = self.ends().iter().filter(|(gguf, _)| *gguf != "output");
        let ends = ends.flat_map(move |(gguf, _)| {
            with_bias((*gguf).to_owned(), biased && *gguf == "output_norm")
        });
        let blocks = (0..n_layers).flat_map(move |layer| {
            let modules = self.block();
            modules.flat_map(move |(gguf, _)| with_bias(format!("blk.{layer}.{gguf}"), biased))
        });
        ends.chain(blocks)
    }
}

/// Buffers that old files hold besides the weights, and nobody needs.
pub(super) fn is_buffer(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".masked_bias"]
        .iter()
        .any(|ending| name.ends_with(ending))
        || name.contains(".rotary")
}

/// Whether llama.cpp wants this tensor in F32 whatever the others are: vectors, norms, positions.
pub(super) fn stays_f32(gguf_name: &str, rank: usize) -> bool {
    rank < 2
        || gguf_name.ends_with("_norm.weight")
        || !gguf_name.ends_with(".weight")
        || gguf_name == "position_embd.weight"
}

/// `a.b.weight` to `a.b` and `weight`.
fn split_part(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, part)| matches!(*part, "weight" | "bias"))
}

/// `12.mlp.up_proj` to 12 and `mlp.up_proj`.
fn split_layer(rest: &str) -> Option<(usize, &str)> {
    let (digits, inner) = rest.split_once('.')?;
    let layer = digits.parse().ok()?;
    // Not `+1` or `01`, which would come back as another name.
    (digits == usize::to_string(&layer)).then_some((layer, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arch: GgufArch) -> TensorNames {
        TensorNames { arch, heads: 8, kv_heads: 2 }
    }

    #[test]
    fn every_name_comes_back() {
        for arch in GgufArch::ALL {
            let names = names(arch);
            let mut seen = std::collections::BTreeSet::new();
            for gguf in names.required(3).chain(["output.weight".to_owned()]) {
                let hf = names.to_hugging_face(&gguf).expect(&gguf);
                let back = names.to_gguf(&hf.name).expect(&hf.name);
                assert_eq!(back, Renamed { name: gguf, relay: hf.relay });
                assert!(seen.insert(hf.name.clone()), "{} twice", hf.name);
            }
        }
    }

    #[test]
    fn only_llama_interleaves() {
        let relay = |arch, name| names(arch).to_gguf(name).unwrap().relay;
        let (q, k) =
            ("model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.bias");
        assert_eq!(relay(GgufArch::Llama, q), Relay::Interleave { heads: 8 });
        assert_eq!(relay(GgufArch::Llama, k), Relay::Interleave { heads: 2 });
        assert_eq!(relay(GgufArch::Llama, "model.layers.1.self_attn.v_proj.weight"), Relay::AsIs);
        assert_eq!(relay(GgufArch::Qwen2, q), Relay::AsIs);
    }

    #[test]
    fn gemma_norms_and_gpt2_matrices() {
        let gemma = names(GgufArch::Gemma3);
        let norm = gemma.to_gguf("model.layers.4.self_attn.q_norm.weight").unwrap();
        assert_eq!(norm, Renamed { name: "blk.4.attn_q_norm.weight".into(), relay: Relay::AddOne });
        let norm = gemma.to_gguf("model.layers.4.post_attention_layernorm.weight").unwrap();
        assert_eq!(norm.name, "blk.4.post_attention_norm.weight");
        let gpt2 = names(GgufArch::Gpt2);
        for name in ["h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"] {
            let renamed = gpt2.to_gguf(name).unwrap();
            assert_eq!(
                (&*renamed.name, renamed.relay),
                ("blk.0.attn_qkv.weight", Relay::Transpose)
            );
        }
        assert_eq!(gpt2.to_gguf("wpe.weight").unwrap().name, "position_embd.weight");
        assert_eq!(gpt2.to_gguf("h.0.attn.c_attn.bias").unwrap().relay, Relay::AsIs);
    }

    #[test]
    fn strange_names_are_nobodys() {
        let llama = names(GgufArch::Llama);
        for name in ["model.layers.01.mlp.up_proj.weight", "model.layers.1.mlp.up_proj", "x.weight"]
        {
            assert_eq!(llama.to_gguf(name), None);
        }
        for name in ["blk.1.attn_qkv.weight", "blk.x.attn_q.weight", ROPE_FREQS, "weight"] {
            assert_eq!(llama.to_hugging_face(name), None);
        }
        assert!(
            is_buffer("h.0.attn.bias") && is_buffer("model.layers.0.self_attn.rotary_emb.inv_freq")
        );
        assert!(!is_buffer("h.0.attn.c_attn.bias"));
    }
}
