//! Training block by block: each learns to give what the float block gives, with one block in memory.
//!
//! ```text
//! float  ← embeddings of the windows      rounded ← the same
//! for each block:
//!     float ← float block(float)                          targets: what the float model has here
//!     train the block:  ‖block(rounded) − float‖²          inputs carry the errors of all blocks before
//!     rounded ← trained block(rounded)
//! ```
//!
//! With [`Learn::WEIGHTS`] this is the first phase of EfficientQAT (Block-AP), with [`Learn::ROUNDING`] and [`Rule::Sign`](crate::Rule::Sign) AutoRound.

use std::path::Path;

use fewbit_checkpoint::{Checkpoint, Container};
use fewbit_format::Plan;
use fewbit_model::ModelConfig;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    BlockTensors, Curve, EndTensors, Event, Geometry, Learn, Progress, QatError, Run, Start,
    Student, TrainBlock, Windows,
    block::{backward_block, forward_block},
    loss,
    param::Param,
    pool::Pool,
    random,
    train::{Task, train},
};

/// Windows of text that block-wise training holds as hidden states.
#[derive(Clone, Copy, Debug)]
pub struct BlockText<'a> {
    /// Text to train on.
    pub text: &'a Windows,
    /// At most so many windows of it, evenly spread.
    pub windows: usize,
    /// Text to check on, in windows of the same length.
    pub held_out: &'a Windows,
}

/// Trains a model block by block; returns it with the course of each block's loss: the squared error of the block's output, relative to the output.
///
/// `work` is a folder for states, from which a killed run goes on to the same bits.
///
/// # Errors
/// If the model cannot be read or trained, a grid of the plan has no training, a setting has no meaning, a state in `work` is of another run, a loss is not
/// finite, and when the caller cancels. The last states stay in `work`.
pub fn train_blocks(
    checkpoint: &Checkpoint,
    plan: &Plan,
    container: &dyn Container,
    start: Start<'_>,
    learn: Learn,
    text: BlockText<'_>,
    run: &Run,
    work: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<(Student, Vec<Curve>), QatError> {
    run.check()?;
    let config = ModelConfig::of(checkpoint)?;
    let ends = EndTensors::load(checkpoint, &config)?;
    let mut pool = Pool::default();
    let mut streams = Streams::new(&config, &ends, text, run.check_windows, &mut pool)?;
    let (mut blocks, mut curves) = (Vec::new(), Vec::new());
    for layer in 0..config.n_layers {
        let n_blocks = config.n_layers;
        progress.event(Event::Block { block: layer, n_blocks });
        let tensors = BlockTensors::load(checkpoint, &config, layer)?;
        let float = TrainBlock::float(&config, layer, tensors.clone());
        streams.advance(&float, Which::Float, &mut pool);
        let mut block = TrainBlock::quantize(&config, layer, tensors, plan, container, start)?;
        if block.matrices().next().is_some() {
            if learn.rounding {
                block.learn_rounding();
            }
            let identity = identity(&mut block, learn, &streams, layer);
            let file = work.map(|folder| folder.join(format!("block-{layer:03}.safetensors")));
            let mut task =
                OneBlock { block: &mut block, learn, streams: &streams, run, identity, pool };
            let curve = train(&mut task, run, file.as_deref(), progress);
            pool = task.pool;
            curves.push(curve?);
        }
        streams.advance(&block, Which::Rounded, &mut pool);
        blocks.push(block);
    }
    Ok((Student::from_parts(config, ends, blocks)?, curves))
}

/// Hidden states of the windows, training ones first.
struct Streams {
    geometry: Geometry,
    float: Vec<f32>,
    rounded: Vec<f32>,
    /// Values of one window.
    one: usize,
    /// Windows to train on; the others are held out.
    n_train: usize,
    /// What identifies them.
    hash: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Which {
    Float,
    Rounded,
}

impl Streams {
    fn new(
        config: &ModelConfig,
        ends: &EndTensors,
        text: BlockText<'_>,
        check_windows: usize,
        pool: &mut Pool,
    ) -> Result<Self, QatError> {
        let window = text.text.window();
        assert_eq!(window, text.held_out.window(), "windows of one length");
        let own = text.text.spread(text.windows);
        let n_train = own.len();
        let mut tokens = text.text.pairs(own).0;
        tokens.extend(text.held_out.pairs(text.held_out.spread(check_windows)).0);
        let geometry = Geometry::new(config, window)?;
        let width = config.hidden_size;
        let mut float = pool.take(tokens.len() * width);
        ends.embed(&mut float, &tokens, window);
        let rounded = float.clone();
        let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytemuck::cast_slice(&tokens)));
        Ok(Self { geometry, float, rounded, one: window * width, n_train, hash })
    }

    /// Moves a stream through a block, some windows at a time.
    fn advance(&mut self, block: &TrainBlock, which: Which, pool: &mut Pool) {
        /// Windows at a time.
        const WINDOWS: usize = 8;
        let weights = block.effective(pool);
        let stream = match which {
            Which::Float => &mut self.float,
            Which::Rounded => &mut self.rounded,
        };
        for h in stream.chunks_mut(WINDOWS * self.one) {
            forward_block(&weights, &self.geometry, h, pool).give(pool);
        }
        weights.give(pool);
    }
}

fn identity(block: &mut TrainBlock, learn: Learn, streams: &Streams, layer: usize) -> String {
    let mut hash = Xxh3::new();
    for matrix in block.matrices() {
        hash.update(matrix.scheme_text().as_bytes());
        hash.update(bytemuck::cast_slice(&matrix.rounded()));
    }
    let mut learned = Vec::new();
    block.learned(learn, &mut learned);
    for param in learned {
        hash.update(bytemuck::cast_slice(param.values));
    }
    hash.update(bytemuck::cast_slice(&streams.float));
    let (block, text) = (hash.digest128(), &streams.hash);
    format!("learned {learn:?}\nblock {layer} {block:032x}\ntext {text}")
}

struct OneBlock<'a> {
    block: &'a mut TrainBlock,
    learn: Learn,
    streams: &'a Streams,
    run: &'a Run,
    identity: String,
    pool: Pool,
}

impl OneBlock<'_> {
    /// Σ target² of some windows.
    fn norm(target: &[f32]) -> f64 {
        target.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().max(f64::MIN_POSITIVE)
    }
}

impl Task for OneBlock<'_> {
    fn learned(&mut self) -> Vec<Param<'_>> {
        let mut out = Vec::new();
        self.block.learned(self.learn, &mut out);
        out
    }

    fn gradient(&mut self, number: u64) -> (f64, Vec<Vec<f32>>) {
        let Streams { geometry, float, rounded, one, n_train, .. } = self.streams;
        let pool = &mut self.pool;
        let (mut h, mut target) =
            (pool.take(self.run.batch * one), pool.take(self.run.batch * one));
        let places = h.chunks_exact_mut(*one).zip(target.chunks_exact_mut(*one));
        for (i, (h, target)) in places.enumerate() {
            let place = number * self.run.batch as u64 + i as u64;
            let at = random::below(self.run.seed, place, *n_train) * one;
            h.copy_from_slice(&rounded[at..at + one]);
            target.copy_from_slice(&float[at..at + one]);
        }
        let weights = self.block.effective(pool);
        let tape = forward_block(&weights, geometry, &mut h, pool);
        let value = loss::squared_error(&mut h, &target, Self::norm(&target));
        let by_values = backward_block(&weights, geometry, tape, &mut h, pool);
        weights.give(pool);
        pool.give(h);
        pool.give(target);
        let mut grads = Vec::new();
        self.block.gradients(by_values, self.learn, pool, &mut grads);
        (value, grads)
    }

    fn recycle(&mut self, grads: Vec<Vec<f32>>) {
        grads.into_iter().for_each(|grad| self.pool.give(grad));
    }

    fn check(&mut self) -> f64 {
        let Streams { geometry, float, rounded, one, n_train, .. } = self.streams;
        let pool = &mut self.pool;
        let weights = self.block.effective(pool);
        let (mut error, mut norm) = (0.0, 0.0);
        let per = self.run.batch * one;
        let held_out = rounded[n_train * one..].chunks(per).zip(float[n_train * one..].chunks(per));
        for (input, target) in held_out {
            let mut h = pool.copy(input);
            forward_block(&weights, geometry, &mut h, pool).give(pool);
            error += loss::squared_error(&mut h, target, 1.0);
            norm += Self::norm(target);
            pool.give(h);
        }
        weights.give(pool);
        error / norm
    }

    fn tokens(&self) -> usize {
        self.run.batch * self.streams.geometry.window()
    }

    fn settings(&self) -> String {
        self.identity.clone()
    }
}
