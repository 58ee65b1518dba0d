//! Which inputs can be scaled, and where the reciprocals of the scales go.
//!
//! | site | folded into |
//! |---|---|
//! | query, key, value | the gain of the norm before |
//! | attention output | rows and bias of value; heads that share values share scales |
//! | gate, up | the gain of the norm before |
//! | down | rows and bias of up, by which the product with the gate is linear |

use fewbit_awq::{ChannelMap, Scales};
use fewbit_checkpoint::Checkpoint;
use fewbit_model::{ModelConfig, Role, SEQUENTIAL_GROUPS, Site};

use crate::Module;

/// What produces the inputs of a site.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Producer {
    /// A norm, whose gain this tensor holds.
    Norm(String),
    /// A linear layer.
    Linear(Role),
}

/// A site whose inputs can be scaled.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) site: Site,
    /// Layers that read there.
    pub(crate) roles: &'static [Role],
    pub(crate) producer: Producer,
    pub(crate) map: ChannelMap,
    /// The float tensor that changes: a gain or a bias.
    pub(crate) tensor: Option<String>,
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
        let (producer, map) = match site {
            Site::AttentionInput | Site::MlpInput => {
                let gain = config.norm_gain(block, site)?;
                (Producer::Norm(gain), ChannelMap::identity(config.hidden_size))
            }
            Site::AttentionMix => {
                let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
                let map = ChannelMap::shared_heads(n_heads, n_kv_heads, head_dim);
                (Producer::Linear(Role::Value), map)
            }
            Site::MlpMix => {
                let map = ChannelMap::identity(config.shape(Role::Up).out_features);
                (Producer::Linear(Role::Up), map)
            }
        };
        let tensor = match &producer {
            Producer::Norm(gain) => Some(gain.clone()),
            Producer::Linear(role) => {
                let bias = format!("{}.bias", config.module(block, *role));
                model.tensor(&bias).is_some().then_some(bias)
            }
        };
        let producer_changes = match producer {
            Producer::Norm(_) => true,
            Producer::Linear(role) => quantized(role),
        };
        let possible = producer_changes && roles.iter().all(|&role| quantized(role));
        possible.then_some(Fold { site, roles, producer, map, tensor })
    };
    SEQUENTIAL_GROUPS.iter().filter_map(fold).collect()
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

    /// Makes of a matrix what is to be rounded.
    pub(crate) fn fold(&self, role: Role, weight: &mut [f32]) {
        for (fold, scales) in &self.folds {
            if fold.roles.contains(&role) {
                scales.multiply_columns(weight);
            }
            if fold.producer == Producer::Linear(role) {
                scales.divide_rows(&fold.map, weight);
            }
        }
    }
}
