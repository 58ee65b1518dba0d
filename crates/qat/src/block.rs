//! One transformer block, forwards and backwards: the same code for every architecture. What one lacks is left out, a norm that is not there gives back
//! what it gets.
//!
//! ```text
//! x₁ = norm(h)    q, k, v = x₁·Wᵀ    m = attention(norm(q), norm(k), v)    h ← h + norm(m·Woᵀ)
//! x₂ = norm(h)    g, u = x₂·Wᵀ       a = f(g)·u, or f(u)                   h ← h + norm(a·Wdᵀ)
//! ```

use std::sync::Arc;

use fewbit_checkpoint::Dtype;
use fewbit_model::{BlockNorm, ModelConfig, Role, RopeSettings, Site};

use crate::{
    QatError, activation,
    attention::{self, Heads},
    inputs::{SITES, SiteInputs},
    norm::Norm,
    pool::Pool,
    product::{add_bias, add_parallel, forward, grad_bias, grad_input, grad_weight},
    rotary::Rotary,
    tensors::{BlockTensors, NormValues, place},
    train_block::Effective,
};

/// What all blocks of a model share, for windows of one length.
#[derive(Debug)]
pub struct Geometry {
    pub(crate) config: ModelConfig,
    window: usize,
    /// Of each layer.
    layers: Vec<(Heads, Option<Arc<Rotary>>)>,
}

impl Geometry {
    /// For windows of `window` tokens.
    ///
    /// # Errors
    /// [`QatError::Window`] if there are not as many learned positions.
    pub fn new(config: &ModelConfig, window: usize) -> Result<Self, QatError> {
        let positions = config.max_positions;
        if config.positions().is_some() && positions < window {
            return Err(QatError::Window { window, positions });
        }
        // One table for all layers that rotate alike.
        let mut known: Vec<(RopeSettings, Arc<Rotary>)> = Vec::new();
        let mut rotary = |settings| {
            if let Some((_, rotary)) = known.iter().find(|(other, _)| *other == settings) {
                return rotary.clone();
            }
            let rotary = Arc::new(Rotary::new(config.head_dim, settings, window));
            known.push((settings, rotary.clone()));
            rotary
        };
        let layers = (0..config.n_layers)
            .map(|layer| (Heads::new(config, layer, window), config.rope(layer).map(&mut rotary)))
            .collect();
        Ok(Self { config: config.clone(), window, layers })
    }

    /// Tokens of a window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Where a norm's values lie in those of a block, if blocks have it.
    fn norm_place(&self, norm: BlockNorm) -> Option<usize> {
        self.config.architecture.block_norms().position(|n| n == norm)
    }

    /// Widths of the queries, keys and values of a token.
    fn widths(&self) -> [usize; 3] {
        [Role::Query, Role::Key, Role::Value].map(|role| self.config.shape(role).out_features)
    }
}

/// What a forward pass leaves for the backward pass.
#[derive(Debug)]
pub(crate) struct Tape {
    /// Of each norm that the block has.
    norms: Vec<Option<Normed>>,
    /// Input of query, key and value.
    x1: Vec<f32>,
    attention: attention::Kept,
    mix: Vec<f32>,
    /// Input of gate and up.
    x2: Vec<f32>,
    gate: Option<Vec<f32>>,
    up: Vec<f32>,
    act: Vec<f32>,
    /// Inputs before they were rounded, where their steps can be learned.
    raw: [Option<Vec<f32>>; 4],
}

/// What a norm read, and what it made of each row.
#[derive(Debug)]
struct Normed {
    x: Vec<f32>,
    moments: Vec<f32>,
}

impl Tape {
    /// The largest magnitude among the inputs of each of [`SITES`].
    pub(crate) fn largest_inputs(&self) -> [f32; 4] {
        [&self.x1, &self.mix, &self.x2, &self.act]
            .map(|x| x.iter().fold(0.0, |most: f32, x| most.max(x.abs())))
    }

    pub(crate) fn give(self, pool: &mut Pool) {
        let Self { norms, x1, attention, mix, x2, gate, up, act, raw } = self;
        attention.give(pool);
        for Normed { x, moments } in norms.into_iter().flatten() {
            pool.give(x);
            pool.give(moments);
        }
        let rest = gate.into_iter().chain(raw.into_iter().flatten());
        [x1, mix, x2, up, act].into_iter().chain(rest).for_each(|buffer| pool.give(buffer));
    }
}

/// The values of a block in one pass.
struct Pass<'a> {
    weights: &'a Effective<'a>,
    geometry: &'a Geometry,
    /// Of each norm, from its forward to its backward.
    norms: Vec<Option<Normed>>,
    /// Inputs before they were rounded.
    raw: [Option<Vec<f32>>; 4],
    pool: &'a mut Pool,
}

impl<'a> Pass<'a> {
    fn has(&self, role: Role) -> bool {
        place(&self.geometry.config, role).is_some()
    }

    fn norm_of(&self, norm: BlockNorm) -> Option<(usize, Norm<'a>)> {
        let place = self.geometry.norm_place(norm)?;
        Some((place, self.weights.norm(place, &self.geometry.config)))
    }

    /// What a norm makes of `x`, if there is one.
    fn norm(&mut self, norm: BlockNorm, x: Vec<f32>) -> Vec<f32> {
        let Some((place, norm)) = self.norm_of(norm) else { return x };
        let mut y = self.pool.take(x.len());
        let mut moments = self.pool.take(2 * (x.len() / norm.gain.len()));
        norm.forward(&mut y, &mut moments, &x);
        self.norms[place] = Some(Normed { x, moments });
        y
    }

    /// Rounds the inputs of a site.
    fn round(&mut self, site: Site, mut x: Vec<f32>) -> Vec<f32> {
        let (i, inputs) = self.inputs(site);
        if matches!(inputs, SiteInputs::Static(_)) {
            self.raw[i] = Some(self.pool.copy(&x));
        }
        inputs.round(&mut x, self.width(site));
        x
    }

    fn inputs(&self, site: Site) -> (usize, SiteInputs) {
        let i = SITES.iter().position(|&s| s == site).expect("a site of a block");
        (i, self.weights.inputs[i])
    }

    /// Values of a token at a site.
    fn width(&self, site: Site) -> usize {
        let config = &self.geometry.config;
        let reader = config.roles().find(|role| role.site() == site);
        reader.map_or(1, |role| config.shape(role).in_features)
    }

    /// `y = x · Wᵀ + b` of a layer.
    fn linear(&mut self, role: Role, x: &[f32]) -> Vec<f32> {
        let config = &self.geometry.config;
        let (i, shape) = (place(config, role).expect("a layer of the block"), config.shape(role));
        let mut y = self.pool.take(x.len() / shape.in_features * shape.out_features);
        forward(&mut y, x, &self.weights.linears[i], shape);
        if let Some(bias) = &self.weights.biases[i] {
            add_bias(&mut y, bias);
        }
        y
    }

    /// Queries, keys and values, be they of one matrix or three.
    fn project(&mut self, x: &[f32]) -> [Vec<f32>; 3] {
        if !self.has(Role::QueryKeyValue) {
            return [Role::Query, Role::Key, Role::Value].map(|role| self.linear(role, x));
        }
        let fused = self.linear(Role::QueryKeyValue, x);
        let widths = self.geometry.widths();
        let n_tokens = fused.len() / widths.iter().sum::<usize>();
        let mut parts = widths.map(|width| self.pool.take(n_tokens * width));
        for (token, mut row) in fused.chunks_exact(widths.iter().sum()).enumerate() {
            for (part, width) in parts.iter_mut().zip(widths) {
                let (own, rest) = row.split_at(width);
                part[token * width..][..width].copy_from_slice(own);
                row = rest;
            }
        }
        self.pool.give(fused);
        parts
    }

    /// `h += y`.
    fn add(&mut self, h: &mut [f32], y: Vec<f32>) {
        add_parallel(h, &y);
        self.pool.give(y);
    }

    fn give<const N: usize>(&mut self, buffers: [Vec<f32>; N]) {
        buffers.into_iter().for_each(|buffer| self.pool.give(buffer));
    }
}

/// Moves the residual stream `h (n_windows · window, hidden_size)` through a block.
pub(crate) fn forward_block(
    weights: &Effective<'_>,
    geometry: &Geometry,
    h: &mut [f32],
    pool: &mut Pool,
) -> Tape {
    let (heads, rotary) = &geometry.layers[weights.layer];
    let norms = weights.norms.iter().map(|_| None).collect();
    let mut pass = Pass { weights, geometry, norms, raw: Default::default(), pool };
    let stream = pass.pool.copy(h);
    let x1 = pass.norm(BlockNorm::Attention, stream);
    let x1 = pass.round(Site::AttentionInput, x1);
    let [q, k, v] = pass.project(&x1);
    let (q, k) = (pass.norm(BlockNorm::Query, q), pass.norm(BlockNorm::Key, k));
    let mut mix = pass.pool.take(q.len());
    let attention =
        attention::forward(&mut mix, [&q, &k, &v], *heads, rotary.as_deref(), pass.pool);
    pass.give([q, k, v]);
    let mix = pass.round(Site::AttentionMix, mix);
    let y = pass.linear(Role::AttentionOutput, &mix);
    let y = pass.norm(BlockNorm::AfterAttention, y);
    pass.add(h, y);

    let stream = pass.pool.copy(h);
    let x2 = pass.norm(BlockNorm::Mlp, stream);
    let x2 = pass.round(Site::MlpInput, x2);
    let gate = pass.has(Role::Gate).then(|| pass.linear(Role::Gate, &x2));
    let up = pass.linear(Role::Up, &x2);
    let mut act = pass.pool.take(up.len());
    activation::forward(geometry.config.architecture.activation(), &mut act, gate.as_deref(), &up);
    let act = pass.round(Site::MlpMix, act);
    let y = pass.linear(Role::Down, &act);
    let y = pass.norm(BlockNorm::AfterMlp, y);
    pass.add(h, y);
    let Pass { norms, raw, .. } = pass;
    Tape { norms, x1, attention, mix, x2, gate, up, act, raw }
}

/// A pass the other way, and the gradients by the values of the block as they come.
struct Backward<'a> {
    pass: Pass<'a>,
    linears: Vec<Vec<f32>>,
    biases: Vec<Option<Vec<f32>>>,
    norms: Vec<Option<NormValues>>,
    inputs: [f32; 4],
}

/// Gradients by the values of a block, and by the steps of its inputs.
pub(crate) struct BlockGradients {
    pub(crate) values: BlockTensors,
    pub(crate) inputs: [f32; 4],
}

impl Backward<'_> {
    /// From the gradient by rounded inputs to that by the inputs.
    fn unround(&mut self, site: Site, dx: &mut [f32]) {
        let (i, inputs) = self.pass.inputs(site);
        if let Some(raw) = self.pass.raw[i].take() {
            self.inputs[i] = inputs.backward(dx, &raw, self.pass.width(site));
            self.pass.pool.give(raw);
        }
    }

    /// From the gradient by what a norm gave to that by what it got.
    fn norm(&mut self, norm: BlockNorm, dy: Vec<f32>) -> Vec<f32> {
        let Some((place, norm)) = self.pass.norm_of(norm) else { return dy };
        let Normed { x, moments } = self.pass.norms[place].take().expect("kept on the way");
        let mut dx = self.pass.pool.take(dy.len());
        self.norms[place] = Some(norm.backward(&mut dx, &dy, &moments, &x));
        self.pass.give([x, moments, dy]);
        dx
    }

    /// From the gradient by a layer's output to that by its input `x`.
    fn linear(&mut self, role: Role, dy: &[f32], x: &[f32]) -> Vec<f32> {
        let Pass { weights, geometry: Geometry { config, .. }, pool, .. } = &mut self.pass;
        let (i, shape) = (place(config, role).expect("a layer of the block"), config.shape(role));
        let mut dw = pool.take(shape.len());
        grad_weight(&mut dw, dy, x, shape, pool);
        self.linears[i] = dw;
        self.biases[i] = weights.biases[i].as_ref().map(|bias| {
            let mut db = vec![0.0; bias.len()];
            grad_bias(&mut db, dy);
            db
        });
        let mut dx = pool.take(x.len());
        grad_input(&mut dx, dy, &weights.linears[i], shape, pool);
        dx
    }

    /// From the gradients by queries, keys and values to that by their input `x`.
    fn project(&mut self, parts: [Vec<f32>; 3], x: &[f32]) -> Vec<f32> {
        let dx = if self.pass.has(Role::QueryKeyValue) {
            let widths = self.pass.geometry.widths();
            let mut fused = self.pass.pool.take(parts.iter().map(Vec::len).sum());
            for (token, mut row) in fused.chunks_exact_mut(widths.iter().sum()).enumerate() {
                for (part, width) in parts.iter().zip(widths) {
                    let (own, rest) = row.split_at_mut(width);
                    own.copy_from_slice(&part[token * width..][..width]);
                    row = rest;
                }
            }
            let dx = self.linear(Role::QueryKeyValue, &fused, x);
            self.pass.pool.give(fused);
            dx
        } else {
            let [q, k, v] = &parts;
            let mut dx = self.linear(Role::Query, q, x);
            for (role, dy) in [(Role::Key, k), (Role::Value, v)] {
                let part = self.linear(role, dy, x);
                self.pass.add(&mut dx, part);
            }
            dx
        };
        self.pass.give(parts);
        dx
    }
}

/// Turns the gradient by the block's output `dh` into that by its input, and returns those by its values.
pub(crate) fn backward_block(
    weights: &Effective<'_>,
    geometry: &Geometry,
    tape: Tape,
    dh: &mut [f32],
    pool: &mut Pool,
) -> BlockGradients {
    let (heads, rotary) = &geometry.layers[weights.layer];
    let Tape { norms, x1, attention, mix, x2, mut gate, mut up, act, raw } = tape;
    let mut back = Backward {
        norms: norms.iter().map(|_| None).collect(),
        linears: vec![Vec::new(); weights.linears.len()],
        biases: vec![None; weights.biases.len()],
        inputs: [0.0; 4],
        pass: Pass { weights, geometry, norms, raw, pool },
    };
    let dy = back.pass.pool.copy(dh);
    let dy = back.norm(BlockNorm::AfterMlp, dy);
    let mut d_act = back.linear(Role::Down, &dy, &act);
    back.unround(Site::MlpMix, &mut d_act);
    // In place: gate and up become their gradients.
    let kind = geometry.config.architecture.activation();
    activation::backward(kind, gate.as_deref_mut(), &mut up, &d_act);
    back.pass.give([dy, d_act, act]);
    let mut dx = back.linear(Role::Up, &up, &x2);
    if let Some(gate) = gate {
        let part = back.linear(Role::Gate, &gate, &x2);
        back.pass.add(&mut dx, part);
        back.pass.pool.give(gate);
    }
    back.unround(Site::MlpInput, &mut dx);
    back.pass.give([up, x2]);
    let dx = back.norm(BlockNorm::Mlp, dx);
    back.pass.add(dh, dx);

    let dy = back.pass.pool.copy(dh);
    let dy = back.norm(BlockNorm::AfterAttention, dy);
    let mut d_mix = back.linear(Role::AttentionOutput, &dy, &mix);
    back.unround(Site::AttentionMix, &mut d_mix);
    let n_tokens = dh.len() / geometry.config.hidden_size;
    let [mut dq, mut dk, mut dv] =
        geometry.widths().map(|width| back.pass.pool.take(n_tokens * width));
    let by = [&mut dq[..], &mut dk[..], &mut dv[..]];
    attention::backward(by, &d_mix, &attention, *heads, rotary.as_deref(), back.pass.pool);
    attention.give(back.pass.pool);
    back.pass.give([dy, d_mix, mix]);
    let (dq, dk) = (back.norm(BlockNorm::Query, dq), back.norm(BlockNorm::Key, dk));
    let mut dx = back.project([dq, dk, dv], &x1);
    back.unround(Site::AttentionInput, &mut dx);
    let dx = back.norm(BlockNorm::Attention, dx);
    back.pass.add(dh, dx);
    back.pass.pool.give(x1);
    let Backward { linears, biases, norms, inputs, .. } = back;
    let norms = norms.into_iter().map(|norm| norm.expect("every norm was passed")).collect();
    BlockGradients { values: BlockTensors { linears, biases, norms, dtype: Dtype::F32 }, inputs }
}
