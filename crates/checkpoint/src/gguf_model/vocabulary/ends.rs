//! Which tokens end a text.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{CheckpointError, gguf::Metadata};

use super::{super::Caveat, SpecialTokens};

/// Texts of tokens that end a text in llama.cpp, whether or not the metadata says so.
const ENDS: [&str; 21] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];

/// The token that begins a text, and those that end one, as llama.cpp finds them.
pub(in super::super) fn ends(
    metadata: &Metadata,
) -> Result<(Option<u32>, Vec<u32>), CheckpointError> {
    let find = |key: &str| metadata.find::<u32>(&format!("tokenizer.ggml.{key}_token_id"));
    let (mut bos, mut eos) = (find("bos")?, find("eos")?);
    if metadata.find::<&str>("tokenizer.ggml.model")? == Some("llama") {
        (bos, eos) = (bos.or(Some(1)), eos.or(Some(2)));
    }
    let mut ends: Vec<u32> = [eos, find("eot")?, find("eom")?].into_iter().flatten().collect();
    let tokens = metadata.find::<&[String]>("tokenizer.ggml.tokens")?.unwrap_or_default();
    let known = (0..).zip(tokens).filter(|(_, token)| ENDS.contains(&token.as_str()));
    ends.extend(known.map(|(id, _)| id));
    // The first stays in front: it is the one that is written at the end of a text.
    let mut seen = BTreeSet::new();
    ends.retain(|&id| (id as usize) < tokens.len() && seen.insert(id));
    Ok((bos.filter(|&id| (id as usize) < tokens.len()), ends))
}

/// Gives a role to tokens that end a text by `generation_config.json` or `config.json` and that llama.cpp would not find: there is room for
/// two of them.
pub(super) fn settle(
    special: &mut SpecialTokens,
    tokens: &[String],
    generation: &Map<String, Value>,
    config: &Map<String, Value>,
) -> Option<Caveat> {
    let eos = [generation, config].into_iter().find_map(|object| object.get("eos_token_id"));
    let listed = match eos {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let mut left_out = 0;
    for id in listed.iter().filter_map(Value::as_u64) {
        let Some(text) = tokens.get(id as usize) else { continue };
        let id = id as u32;
        let known = [special.eos, special.eot, special.eom].contains(&Some(id));
        if known || ENDS.contains(&text.as_str()) {
            continue;
        }
        let roles = [&mut special.eos, &mut special.eot, &mut special.eom];
        match roles.into_iter().find(|role| role.is_none()) {
            Some(role) => *role = Some(id),
            None => left_out += 1,
        }
    }
    (left_out > 0).then_some(Caveat::EndTokens { tokens: left_out })
}
