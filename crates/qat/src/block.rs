//! One transformer block, forwards and backwards.
//!
//! ```text
//! x₁ = norm₁(h)    q, k, v = x₁·Wᵀ    m = attention(q, k, v)    h ← h + m·Woᵀ
//! x₂ = norm₂(h)    g, u = x₂·Wᵀ       a = silu(g)·u             h ← h + a·Wdᵀ
//! ```

use fewbit_checkpoint::Dtype;
use fewbit_kernels::{Level, vectorize};
use fewbit_model::{ModelConfig, Role, math::exp};
use rayon::prelude::*;

use crate::{
    QatError,
    attention::{self, Heads},
    norm,
    pool::Pool,
    product::{add_bias, add_parallel, forward, grad_bias, grad_input, grad_weight},
    rotary::Rotary,
    tensors::{BlockTensors, BlockView, check_architecture, place},
};

/// What all blocks of a model share, for windows of one length.
#[derive(Debug)]
pub struct Geometry {
    pub(crate) config: ModelConfig,
    pub(crate) heads: Heads,
    rotary: Rotary,
}

impl Geometry {
    /// For windows of `window` tokens.
    ///
    /// # Errors
    /// If the architecture cannot be trained, or some layer sees fewer tokens than a window has: attention is implemented over whole windows.
    pub fn new(config: &ModelConfig, window: usize) -> Result<Self, QatError> {
        check_architecture(config)?;
        if let Some(seen) = (0..config.n_layers).filter_map(|layer| config.window(layer)).min()
            && seen < window
        {
            return Err(QatError::Window { window, seen });
        }
        let (heads, rotary) = (Heads::new(config, window), Rotary::new(config, window));
        Ok(Self { config: config.clone(), heads, rotary })
    }

    /// Tokens of a window.
    pub fn window(&self) -> usize {
        self.heads.window
    }
}

/// What a forward pass leaves for the backward pass.
#[derive(Debug)]
pub(crate) struct Tape {
    /// Residual stream before the block, and after attention.
    streams: [Vec<f32>; 2],
    /// Outputs of the norms.
    normed: [Vec<f32>; 2],
    /// Factors of the norms.
    factors: [Vec<f32>; 2],
    attention: attention::Kept,
    mix: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    act: Vec<f32>,
}

impl Tape {
    pub(crate) fn give(self, pool: &mut Pool) {
        self.attention.give(pool);
        for buffers in [self.streams, self.normed, self.factors] {
            buffers.into_iter().for_each(|buffer| pool.give(buffer));
        }
        for buffer in [self.mix, self.gate, self.up, self.act] {
            pool.give(buffer);
        }
    }
}

/// `y = x · Wᵀ + b` of a layer.
fn layer(
    view: &BlockView<'_>,
    config: &ModelConfig,
    role: Role,
    x: &[f32],
    pool: &mut Pool,
) -> Vec<f32> {
    let (i, shape) = (place(role), config.shape(role));
    let mut y = pool.take(x.len() / shape.in_features * shape.out_features);
    forward(&mut y, x, view.linears[i], shape);
    if let Some(bias) = view.biases[i] {
        add_bias(&mut y, bias);
    }
    y
}

/// Moves the residual stream `h (n_windows · window, hidden_size)` through a block.
pub(crate) fn forward_block(
    view: &BlockView<'_>,
    geometry: &Geometry,
    h: &mut [f32],
    pool: &mut Pool,
) -> Tape {
    let Geometry { config, heads, rotary } = geometry;
    let n_tokens = h.len() / config.hidden_size;
    let before = pool.copy(h);
    let (mut x1, mut f1) = (pool.take(h.len()), pool.take(n_tokens));
    norm::forward(&mut x1, &mut f1, h, view.norms[0], config.norm_eps);
    let [q, k, v] =
        [Role::Query, Role::Key, Role::Value].map(|role| layer(view, config, role, &x1, pool));
    let mut mix = pool.take(q.len());
    let attention = attention::forward(&mut mix, [&q, &k, &v], *heads, rotary, pool);
    [q, k, v].into_iter().for_each(|buffer| pool.give(buffer));
    let y = layer(view, config, Role::AttentionOutput, &mix, pool);
    add_parallel(h, &y);
    pool.give(y);

    let between = pool.copy(h);
    let (mut x2, mut f2) = (pool.take(h.len()), pool.take(n_tokens));
    norm::forward(&mut x2, &mut f2, h, view.norms[1], config.norm_eps);
    let [gate, up] = [Role::Gate, Role::Up].map(|role| layer(view, config, role, &x2, pool));
    let mut act = pool.take(gate.len());
    gated(&mut act, &gate, &up);
    let y = layer(view, config, Role::Down, &act, pool);
    add_parallel(h, &y);
    pool.give(y);
    Tape {
        streams: [before, between],
        normed: [x1, x2],
        factors: [f1, f2],
        attention,
        mix,
        gate,
        up,
        act,
    }
}

/// Turns the gradient by the block's output `dh` into that by its input, and returns those by its values.
pub(crate) fn backward_block(
    view: &BlockView<'_>,
    geometry: &Geometry,
    tape: Tape,
    dh: &mut [f32],
    pool: &mut Pool,
) -> BlockTensors {
    let Geometry { config, heads, rotary } = geometry;
    let mut grads = Grads { view, config, linears: Default::default(), biases: Default::default() };
    let mut d_act = pool.take(tape.act.len());
    grads.layer(Role::Down, dh, &tape.act, &mut d_act, pool);
    // In place: the gate becomes its gradient.
    let Tape { mut gate, mut up, .. } = tape;
    gated_backward(&mut gate, &mut up, &d_act);
    pool.give(d_act);
    pool.give(tape.act);
    let [x1, x2] = tape.normed;
    let [h1, h2] = tape.streams;
    let [f1, f2] = tape.factors;
    let (mut dx, mut part) = (pool.take(dh.len()), pool.take(dh.len()));
    grads.layer(Role::Gate, &gate, &x2, &mut dx, pool);
    grads.layer(Role::Up, &up, &x2, &mut part, pool);
    add_parallel(&mut dx, &part);
    let mlp_norm = norm::backward(dh, &dx, &f2, &h2, view.norms[1]);
    [gate, up, x2, h2, f2].into_iter().for_each(|buffer| pool.give(buffer));

    let mut d_mix = pool.take(tape.mix.len());
    grads.layer(Role::AttentionOutput, dh, &tape.mix, &mut d_mix, pool);
    pool.give(tape.mix);
    let n_tokens = dh.len() / config.hidden_size;
    let [mut dq, mut dk, mut dv] = [Role::Query, Role::Key, Role::Value]
        .map(|role| pool.take(n_tokens * config.shape(role).out_features));
    let by = [&mut dq[..], &mut dk[..], &mut dv[..]];
    attention::backward(by, &d_mix, &tape.attention, *heads, rotary, pool);
    tape.attention.give(pool);
    pool.give(d_mix);
    grads.layer(Role::Query, &dq, &x1, &mut dx, pool);
    for (role, dy) in [(Role::Key, &dk), (Role::Value, &dv)] {
        grads.layer(role, dy, &x1, &mut part, pool);
        add_parallel(&mut dx, &part);
    }
    let attention_norm = norm::backward(dh, &dx, &f1, &h1, view.norms[0]);
    [dq, dk, dv, dx, part, x1, h1, f1].into_iter().for_each(|buffer| pool.give(buffer));
    let Grads { linears, biases, .. } = grads;
    BlockTensors { linears, biases, norms: [attention_norm, mlp_norm], dtype: Dtype::F32 }
}

/// Gradients by the values of a block, as they come.
struct Grads<'a> {
    view: &'a BlockView<'a>,
    config: &'a ModelConfig,
    linears: [Vec<f32>; 7],
    biases: [Option<Vec<f32>>; 7],
}

impl Grads<'_> {
    /// From the gradient `dy` by a layer's output: those by its weight and bias, kept, and that by its input, to `dx`.
    fn layer(&mut self, role: Role, dy: &[f32], x: &[f32], dx: &mut [f32], pool: &mut Pool) {
        let (i, shape) = (place(role), self.config.shape(role));
        let mut dw = pool.take(shape.len());
        grad_weight(&mut dw, dy, x, shape, pool);
        self.linears[i] = dw;
        self.biases[i] = self.view.biases[i].map(|_| {
            let mut db = vec![0.0; shape.out_features];
            grad_bias(&mut db, dy);
            db
        });
        grad_input(dx, dy, self.view.linears[i], shape, pool);
    }
}

/// Values that a thread takes at a time.
const PIECE: usize = 1 << 14;

/// `act = silu(gate) · up`.
fn gated(act: &mut [f32], gate: &[f32], up: &[f32]) {
    let level = Level::detect();
    let pieces = act.par_chunks_mut(PIECE).zip(gate.par_chunks(PIECE)).zip(up.par_chunks(PIECE));
    pieces.for_each(|((act, gate), up)| {
        vectorize(
            level,
            #[inline(always)]
            || {
                for ((act, &gate), up) in act.iter_mut().zip(gate).zip(up) {
                    *act = gate / (1.0 + exp(-gate)) * up;
                }
            },
        );
    });
}

/// Gradients by gate and up, in their places. With `σ = sigmoid(g)`: `silu(g) = g·σ`, `silu′(g) = σ·(1 + g·(1 − σ))`.
fn gated_backward(gate: &mut [f32], up: &mut [f32], d_act: &[f32]) {
    let level = Level::detect();
    let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks_mut(PIECE));
    pieces.zip(d_act.par_chunks(PIECE)).for_each(|((gate, up), d)| {
        vectorize(
            level,
            #[inline(always)]
            || {
                for ((gate, up), d) in gate.iter_mut().zip(up).zip(d) {
                    let (g, u) = (*gate, *up);
                    let sigmoid = 1.0 / (1.0 + exp(-g));
                    *gate = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
                    *up = d * g * sigmoid;
                }
            },
        );
    });
}
