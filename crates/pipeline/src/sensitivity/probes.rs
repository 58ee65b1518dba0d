//! The probe text in the float model, and in copies of it that are disturbed somewhere.

use std::convert::Infallible;

use fewbit_checkpoint::{Checkpoint, Dtype, Weight};
use fewbit_eval::{compare, from_fn};
use fewbit_model::{Block, Ends, Linear, ModelConfig, Role};

use super::SensitivityError;
use crate::{PipelineError, stages::States};

/// Which matrices a copy of the model has in error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// One matrix.
    Matrix(usize, Role),
    /// All matrices of a block.
    Block(usize),
    /// The matrices of one role, in all blocks.
    Role(Role),
    /// Every matrix.
    All,
}

impl Target {
    fn touches(self, block: usize, role: Role) -> bool {
        match self {
            Self::Matrix(b, r) => (b, r) == (block, role),
            Self::Block(b) => b == block,
            Self::Role(r) => r == role,
            Self::All => true,
        }
    }

    /// The first block that it may touch.
    fn start(self) -> usize {
        match self {
            Self::Matrix(block, _) | Self::Block(block) => block,
            Self::Role(_) | Self::All => 0,
        }
    }

    /// The targets from which the loss of every matrix follows: each by itself, or blocks and roles if that would be more than `most`.
    pub(super) fn needed(config: &ModelConfig, most: usize) -> Vec<Self> {
        let (n_blocks, roles) = (config.n_layers, config.roles());
        let mut targets = Vec::new();
        if n_blocks * roles.clone().count() <= most {
            for block in 0..n_blocks {
                targets.extend(roles.clone().map(|role| Self::Matrix(block, role)));
            }
        } else {
            targets.extend((0..n_blocks).map(Self::Block));
            targets.extend(roles.map(Self::Role));
        }
        targets.push(Self::All);
        targets
    }
}

/// A copy of the model with some matrices rounded to one grid.
struct Copy {
    target: Target,
    grid: usize,
    /// From the first block on that it touches.
    states: Option<States>,
}

/// The probe text on its way through the model and all copies.
pub(super) struct Probes {
    documents: Vec<Vec<u32>>,
    reference: States,
    copies: Vec<Copy>,
}

/// The matrices of a block on one of the probe grids, `None` where the grid does not fit.
pub(super) type RoundedBlock = Vec<(Role, Option<Vec<f32>>)>;

impl Probes {
    /// `n_grids` probe grids for each target.
    pub(super) fn new(
        model: &Checkpoint,
        config: &ModelConfig,
        documents: &[Vec<u32>],
        targets: &[Target],
        n_grids: usize,
    ) -> Result<Self, SensitivityError> {
        let documents: Vec<_> = documents.iter().filter(|d| d.len() >= 2).cloned().collect();
        if documents.is_empty() {
            return Err(SensitivityError::NoProbes);
        }
        let reference = States::embed(model, config, &documents)?;
        let copies = (0..n_grids).flat_map(|grid| {
            targets.iter().map(move |&target| Copy { target, grid, states: None })
        });
        Ok(Self { documents, reference, copies: copies.collect() })
    }

    /// Moves everything through a block. `rounded` holds its matrices on each probe grid. Returns the block's influence.
    pub(super) fn forward(
        &mut self,
        block: &Block,
        rounded: &[RoundedBlock],
    ) -> fewbit_planner::importance::BlockInfluence {
        for copy in &mut self.copies {
            if copy.target.start() > block.layer() {
                continue;
            }
            let states = copy.states.get_or_insert_with(|| self.reference.clone());
            let touched: Vec<(Role, &Vec<f32>)> = rounded[copy.grid]
                .iter()
                .filter(|(role, _)| copy.target.touches(block.layer(), *role))
                .filter_map(|(role, values)| Some((*role, values.as_ref()?)))
                .collect();
            if touched.is_empty() {
                states.forward(block);
                continue;
            }
            let mut disturbed = block.clone();
            for (role, values) in touched {
                let linear = block.linear(role);
                let weight = Weight::Float {
                    shape: linear.shape(),
                    dtype: Dtype::F32,
                    data: values.clone(),
                };
                let bias = linear.bias().map(<[f32]>::to_vec);
                disturbed.set_linear(role, Linear::from_weight(weight, bias));
            }
            states.forward(&disturbed);
        }
        let before = self.reference.clone();
        self.reference.forward(block);
        let mut influence = fewbit_planner::importance::BlockInfluence::default();
        for (before, after) in before.sequences().zip(self.reference.sequences()) {
            let hidden_size = before.ncols();
            let (before, after) = (before.as_standard_layout(), after.as_standard_layout());
            let slices = before.as_slice().zip(after.as_slice());
            let (before, after) = slices.expect("standard layout");
            influence.add(before, after, hidden_size);
        }
        influence
    }

    /// KL divergence of each copy from the float model, nats per predicted token: target, number of the probe grid, divergence.
    pub(super) fn divergences(
        self,
        model: &Checkpoint,
        config: &ModelConfig,
    ) -> Result<Vec<(Target, usize, f64)>, SensitivityError> {
        let ends = Ends::load(model, config).map_err(PipelineError::from)?;
        let mut sums = vec![0.0; self.copies.len()];
        let mut tokens = 0;
        let mut disturbed: Vec<_> =
            self.copies.iter().map(|c| c.states.as_ref().map(States::sequences)).collect();
        for (document, h) in self.documents.iter().zip(self.reference.sequences()) {
            let logits = ends.head(h);
            let predicted = document.len() - 1;
            tokens += predicted;
            for (sum, sequences) in sums.iter_mut().zip(&mut disturbed) {
                let Some(h) = sequences.as_mut().and_then(Iterator::next) else { continue };
                let mut reference =
                    from_fn(config.vocab_size, |_: &[u32]| Ok::<_, Infallible>(logits.clone()));
                let mut copy =
                    from_fn(config.vocab_size, |_: &[u32]| Ok::<_, Infallible>(ends.head(h)));
                let result = compare(&mut reference, &mut copy, [document], document.len())?;
                *sum += result.kl.value * predicted as f64;
            }
        }
        let copies = self.copies.iter().zip(&sums);
        Ok(copies.map(|(c, sum)| (c.target, c.grid, sum / tokens as f64)).collect())
    }
}
