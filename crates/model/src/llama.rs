//! Where the Llama family keeps its tensors.

use crate::Role;

/// The embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens";
/// The head.
pub(crate) const HEAD: &str = "lm_head";
/// The norm before the head.
pub(crate) const FINAL_NORM: &str = "model.norm";

/// A linear layer of a block.
pub(crate) fn module(layer: usize, role: Role) -> String {
    let path = match role {
        Role::Query => "self_attn.q_proj",
        Role::Key => "self_attn.k_proj",
        Role::Value => "self_attn.v_proj",
        Role::AttentionOutput => "self_attn.o_proj",
        Role::Gate => "mlp.gate_proj",
        Role::Up => "mlp.up_proj",
        Role::Down => "mlp.down_proj",
    };
    format!("model.layers.{layer}.{path}")
}

/// The norm before attention.
pub(crate) fn attention_norm(layer: usize) -> String {
    format!("model.layers.{layer}.input_layernorm")
}

/// The norm before the MLP (named after what it follows).
pub(crate) fn mlp_norm(layer: usize) -> String {
    format!("model.layers.{layer}.post_attention_layernorm")
}
