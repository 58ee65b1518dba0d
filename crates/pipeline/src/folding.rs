//! Which inputs can be scaled, and where the reciprocals of the scales go. The architecture says which ([`ModelConfig::producer`]):
//!
//! | site | folded into |
//! |---|---|
//! | query, key, value | gain and bias of the norm before |
//! | attention output | rows and bias of value; heads that share values share scales |
//! | gate, up | gain and bias of the norm before |
//! | down | rows and bias of up, by which the product with the gate is linear; nothing where there is no gate |

use fewbit_awq::{ChannelMap, Gain, Scales};
use fewbit_checkpoint::Checkpoint;
use fewbit_model::{ModelConfig, NormKind, Producer, Role, Site};

use crate::Module;

/// A site whose inputs can be scaled.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) site: Site,
    /// Layers that read there.
    pub(crate) roles: &'static [Role],
    pub(crate) producer: Producer,
    /// Of a producing layer, the first of the rows that take part.
    pub(crate) first_row: usize,
    pub(crate) map: ChannelMap,
    /// The float tensors that change: the gain of a norm and what it adds, or the bias of a layer.
    pub(crate) tensors: Vec<String>,
    /// How the first of them multiplies.
    pub(crate) gain: Gain,
}

/// The sites of a block that can be scaled: every matrix that would change takes a grid, so that no float weight has to be rounded anew.
pub(crate) fn folds(
    model: &Checkpoint,
    config: &ModelConfig,
    modules: &[Module],
    block: usize,
) -> Vec<Fold> {
    let quantized = |role: Role| {
        modules.iter().any(|m| m.block == block && m.role == Some(role) && m.is_quantized())
    };
    let fold = |&(site, roles): &(Site, &'static [Role])| {
        let (producer, first_row) = config.producer(site)?;
        let map = match site {
            Site::AttentionInput | Site::MlpInput => ChannelMap::identity(config.hidden_size),
            Site::AttentionMix => {
                let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
                ChannelMap::shared_heads(n_heads, n_kv_heads, head_dim)
            }
            Site::MlpMix => ChannelMap::identity(config.intermediate_size),
        };
        let tensors = match producer {
            Producer::Norm => {
                let norm = config.norm(block, site)?;
                [norm.gain].into_iter().chain(norm.bias).collect()
            }
            Producer::Linear(role) => {
                let bias = format!("{}.bias", config.module(block, role));
                model.tensor(&bias).map(|_| bias).into_iter().collect()
            }
        };
        let producer_changes = match producer {
            Producer::Norm => true,
            Producer::Linear(role) => quantized(role),
        };
        let gain = match (producer, config.architecture.norm()) {
            (Producer::Norm, NormKind::RmsOnePlus) => Gain::OnePlus,
            _ => Gain::Plain,
        };
        let possible = producer_changes && roles.iter().all(|&role| quantized(role));
        possible.then_some(Fold { site, roles, producer, first_row, map, tensors, gain })
    };
    config.groups().iter().filter_map(fold).collect()
}

impl Fold {
    /// Of the values of a producing layer, `width` for each row, those that take part.
    pub(crate) fn rows<'a>(&self, values: &'a mut [f32], width: usize) -> &'a mut [f32] {
        &mut values[self.first_row * width..][..self.map.n_produced() * width]
    }
}

/// The scales of a block.
#[derive(Debug, Default)]
pub(crate) struct BlockScales {
    folds: Vec<(Fold, Scales)>,
}

impl BlockScales {
    pub(crate) fn push(&mut self, fold: Fold, scales: Scales) {
        self.folds.push((fold, scales));
    }

    /// The scales of a site, if it has any.
    pub(crate) fn of(&self, site: Site) -> Option<&Scales> {
        self.folds.iter().find(|(fold, _)| fold.site == site).map(|(_, scales)| scales)
    }

    /// Makes of a matrix, `in_features` wide, what is to be rounded.
    pub(crate) fn fold(&self, role: Role, weight: &mut [f32], in_features: usize) {
        for (fold, scales) in &self.folds {
            if fold.roles.contains(&role) {
                scales.multiply_columns(weight);
            }
            if fold.producer == Producer::Linear(role) {
                scales.divide_rows(&fold.map, fold.rows(weight, in_features));
            }
        }
    }
}
