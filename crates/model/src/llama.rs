//! Where the Llama family keeps its tensors.

use fewbit_checkpoint::{Checkpoint, Dtype, TensorInfo, Weight};
use fewbit_format::MatrixShape;

use crate::{Activations, Linear, ModelConfig, ModelError, Role, Site, norm::RmsNorm};

/// The embedding.
const EMBEDDING: &str = "model.embed_tokens";
/// The head.
const HEAD: &str = "lm_head";
/// The matrices around the blocks, `(vocab_size, hidden_size)` each: the embedding and the head.
pub const END_MODULES: [&str; 2] = [EMBEDDING, HEAD];

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

/// A linear layer of a block, with its bias.
pub(crate) fn linear(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layer: usize,
    role: Role,
    activations: Activations,
) -> Result<Linear, ModelError> {
    let module = module(layer, role);
    let shape = config.shape(role);
    let weight = weight(checkpoint, &module, shape)?;
    let bias = match config.has_bias(role) {
        true => Some(vector(checkpoint, &format!("{module}.bias"), shape.out_features)?),
        false => None,
    };
    Ok(Linear::with_activations(weight, bias, activations))
}

/// The tensor of what the norm before a site multiplies by.
pub(crate) fn norm_gain(layer: usize, site: Site) -> Option<String> {
    let name = match site {
        Site::AttentionInput => "input_layernorm",
        Site::MlpInput => "post_attention_layernorm",
        Site::AttentionMix | Site::MlpMix => return None,
    };
    Some(format!("model.layers.{layer}.{name}.weight"))
}

/// The norm before attention.
pub(crate) fn attention_norm(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layer: usize,
) -> Result<RmsNorm, ModelError> {
    norm(checkpoint, config, &norm_gain(layer, Site::AttentionInput).expect("a norm"))
}

/// The norm before the MLP, named after what it follows.
pub(crate) fn mlp_norm(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layer: usize,
) -> Result<RmsNorm, ModelError> {
    norm(checkpoint, config, &norm_gain(layer, Site::MlpInput).expect("a norm"))
}

/// The norm before the head.
pub(crate) fn final_norm(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
) -> Result<RmsNorm, ModelError> {
    norm(checkpoint, config, "model.norm.weight")
}

/// The embedding, and the head where it is another matrix.
///
/// Tied, the matrix may be stored under either name; under both, the embedding counts. Untied without a head, the head is the embedding
/// too, as files of tied models often say nothing about it.
pub(crate) fn embedding_and_head(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
) -> Result<(Weight, Option<Weight>), ModelError> {
    let shape = MatrixShape::new(config.vocab_size, config.hidden_size);
    let has = |module: &str| {
        let prefix = format!("{module}.");
        checkpoint.tensors().any(|tensor| tensor.name.starts_with(&prefix))
    };
    let only_head = config.tied && !has(EMBEDDING) && has(HEAD);
    let embedding = weight(checkpoint, if only_head { HEAD } else { EMBEDDING }, shape)?;
    let head = match !config.tied && has(HEAD) {
        true => Some(weight(checkpoint, HEAD, shape)?),
        false => None,
    };
    Ok((embedding, head))
}

fn norm(checkpoint: &Checkpoint, config: &ModelConfig, name: &str) -> Result<RmsNorm, ModelError> {
    let weight = vector(checkpoint, name, config.hidden_size)?;
    Ok(RmsNorm { weight, eps: config.rms_norm_eps })
}

/// The weight of a module, of the shape that the configuration says. What the file's header says is checked before it is read.
fn weight(checkpoint: &Checkpoint, module: &str, shape: MatrixShape) -> Result<Weight, ModelError> {
    let name = format!("{module}.weight");
    let expected = [shape.out_features, shape.in_features];
    // Of a quantized weight, a tensor of this name may hold bytes in any shape.
    let float = |info: &&TensorInfo| matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    if let Some(info) = checkpoint.tensor(&name).filter(float) {
        check_shape(&name, &info.shape, &expected)?;
    }
    let weight = checkpoint.weight(module)?;
    let got = weight.shape();
    check_shape(module, &[got.out_features, got.in_features], &expected)?;
    Ok(weight)
}

fn vector(checkpoint: &Checkpoint, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
    if let Some(info) = checkpoint.tensor(name) {
        check_shape(name, &info.shape, &[len])?;
    }
    Ok(checkpoint.read_f32(name)?)
}

fn check_shape(name: &str, got: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    if got == expected {
        return Ok(());
    }
    Err(ModelError::Shape { name: name.to_owned(), got: got.to_vec(), expected: expected.to_vec() })
}
