//! A layer of the demo model with its inputs on some text.

use anyhow::Result;
use fewbit::{
    checkpoint::Checkpoint,
    eval::ndarray::Array2,
    format::MatrixShape,
    model::{Model, Role, Tokenizer},
};
use fewbit_demo::Split;

use crate::support;

/// The block whose down projection is looked at: not the first and not the last.
const BLOCK: usize = 2;
const ROLE: Role = Role::Down;

/// A linear layer with its inputs on calibration text and on other text.
pub struct Layer {
    pub name: String,
    pub shape: MatrixShape,
    /// Row-major.
    pub weight: Vec<f32>,
    /// (n_tokens, in_features), from which ranges are learned.
    pub calibration: Array2<f32>,
    /// (n_tokens, in_features), on which they are judged.
    pub test: Array2<f32>,
}

impl Layer {
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        let model = Model::load(checkpoint)?;
        let block = &model.blocks()[BLOCK];
        let name = block.module(ROLE).to_string();
        Ok(Self {
            weight: checkpoint.read_f32(&format!("{name}.weight"))?,
            shape: block.linear(ROLE).shape(),
            calibration: inputs(&model, checkpoint, Split::Calibration)?,
            test: inputs(&model, checkpoint, Split::Test)?,
            name,
        })
    }
}

/// The layer's inputs on some stories of a split, story after story.
fn inputs(model: &Model, checkpoint: &Checkpoint, split: Split) -> Result<Array2<f32>> {
    let tokenizer = Tokenizer::load(checkpoint)?;
    let text = fewbit_demo::text(split, 8_000);
    let mut stories = support::encode_documents(&tokenizer, model.config().bos_token, &text)?;
    stories.iter_mut().for_each(|story| story.truncate(model.config().max_positions));
    let lengths: Vec<usize> = stories.iter().map(Vec::len).collect();
    let mut stream = model.ends().embed(&stories.concat())?;
    let mut inputs = Array2::zeros((0, 0));
    for block in &model.blocks()[..=BLOCK] {
        block.forward(&mut stream, &lengths, |site, x| {
            if block.layer() == BLOCK && site == ROLE.site() {
                inputs = x.to_owned();
            }
        });
    }
    Ok(inputs)
}
