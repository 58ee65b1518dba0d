//! One transformer block, in four stages.

use std::sync::Arc;

use fewbit_checkpoint::Checkpoint;
use fewbit_kernels::{Level, vectorize};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Linear, ModelConfig, ModelError, Role, Site,
    attention::{Heads, KeyValues, Sequence, attend},
    llama,
    math::silu,
    norm::RmsNorm,
    rope::Rope,
};

/// One transformer block: attention and MLP, each after a norm and added to the residual stream.
///
/// Its four stages each compute the input of some linear layers ([`SEQUENTIAL_GROUPS`](crate::SEQUENTIAL_GROUPS)):
///
/// ```text
/// x = attention_input(h)      input of query, key, value
/// y = attention_mix(x)        input of the output projection
/// attention_output(y, h)      h += o(y)
/// x = mlp_input(h)            input of gate, up
/// y = mlp_mix(x)              input of down
/// mlp_output(y, h)            h += down(y)
/// ```
///
/// so that who quantizes can stop at each, replace the layers that read it, and go on. [`forward`](Self::forward) is all of them.
/// Every result is the same for any number of threads.
#[derive(Clone, Debug)]
pub struct Block {
    layer: usize,
    modules: [String; 7],
    linears: [Linear; 7],
    attention_norm: RmsNorm,
    mlp_norm: RmsNorm,
    heads: Heads,
    rope: Arc<Rope>,
}

impl Block {
    /// Reads the weights of one block, float or quantized.
    ///
    /// # Errors
    /// If there is no such layer, or a tensor is missing, unreadable or of another shape than the configuration says.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let rope = Rope::new(config.head_dim, config.rope_theta, config.rope_scaling);
        Self::load_with(checkpoint, config, layer, Arc::new(rope))
    }

    /// As [`load`](Self::load), with the rotary table of the other blocks.
    pub(crate) fn load_with(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
        rope: Arc<Rope>,
    ) -> Result<Self, ModelError> {
        if layer >= config.n_layers {
            return Err(ModelError::NoSuchLayer { layer, n_layers: config.n_layers });
        }
        let linears = Role::ALL
            .iter()
            .map(|&role| llama::linear(checkpoint, config, layer, role))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            layer,
            modules: Role::ALL.map(|role| config.module(layer, role)),
            linears: linears.try_into().expect("as many as there are roles"),
            attention_norm: llama::attention_norm(checkpoint, config, layer)?,
            mlp_norm: llama::mlp_norm(checkpoint, config, layer)?,
            heads: Heads::new(config),
            rope,
        })
    }

    /// Which block of the model this is, from 0.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Module name of a linear layer, such as `model.layers.3.self_attn.q_proj`.
    pub fn module(&self, role: Role) -> &str {
        &self.modules[role as usize]
    }

    /// A linear layer.
    pub fn linear(&self, role: Role) -> &Linear {
        &self.linears[role as usize]
    }

    /// Replaces a linear layer.
    ///
    /// # Panics
    /// If its shape differs.
    pub fn set_linear(&mut self, role: Role, linear: Linear) {
        let place = &mut self.linears[role as usize];
        assert_eq!(linear.shape(), place.shape(), "a layer keeps its shape");
        *place = linear;
    }

    /// Replaces what the norm before a site multiplies by, one value for each channel.
    ///
    /// # Panics
    /// If there is no norm before the site, or the length differs.
    pub fn set_norm_gain(&mut self, site: Site, gain: Vec<f32>) {
        let norm = match site {
            Site::AttentionInput => &mut self.attention_norm,
            Site::MlpInput => &mut self.mlp_norm,
            Site::AttentionMix | Site::MlpMix => panic!("no norm before {site:?}"),
        };
        assert_eq!(gain.len(), norm.weight.len(), "a norm keeps its width");
        norm.weight = gain;
    }

    /// The normalized residual stream: `h (n_tokens, hidden_size)` to the input of query, key and value.
    pub fn attention_input(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        self.attention_norm.forward(h)
    }

    /// Projections, rotation and causal attention within each sequence: to the input of the output projection, `(n_tokens, n_heads ·
    /// head_dim)`. The rows of `x` are sequences one after the other, `seq_lens` tokens each, positions from 0.
    ///
    /// # Panics
    /// If the lengths do not add up to the rows of `x`.
    pub fn attention_mix(&self, x: ArrayView2<'_, f32>, seq_lens: &[usize]) -> Array2<f32> {
        assert_eq!(seq_lens.iter().sum::<usize>(), x.nrows(), "lengths add up to all rows");
        let positions: Vec<usize> = seq_lens.iter().flat_map(|&len| 0..len).collect();
        let (queries, keys, values) = self.project(x, &positions);
        let kv_width = keys.ncols();
        let (keys, values) = (flat(&keys), flat(&values));
        let mut rest = (keys, values);
        let pieces: Vec<_> = seq_lens
            .iter()
            .map(|len| {
                let (k, k_rest) = rest.0.split_at(len * kv_width);
                let (v, v_rest) = rest.1.split_at(len * kv_width);
                rest = (k_rest, v_rest);
                (k, v)
            })
            .collect();
        let caches: Vec<KeyValues> = pieces
            .into_par_iter()
            .map(|(keys, values)| {
                let mut cache = KeyValues::default();
                cache.append(keys, values, self.heads);
                cache
            })
            .collect();
        self.mix(&queries, seq_lens, &caches.iter().collect::<Vec<_>>())
    }

    /// As [`attention_mix`](Self::attention_mix) for the next tokens of one sequence, which join its keys and values.
    pub(crate) fn attention_mix_cached(
        &self,
        x: ArrayView2<'_, f32>,
        cache: &mut KeyValues,
    ) -> Array2<f32> {
        let first = cache.n_tokens();
        let positions: Vec<usize> = (first..first + x.nrows()).collect();
        let (queries, keys, values) = self.project(x, &positions);
        cache.append(flat(&keys), flat(&values), self.heads);
        self.mix(&queries, &[x.nrows()], &[cache])
    }

    /// Rotated queries and keys, and values.
    fn project(
        &self,
        x: ArrayView2<'_, f32>,
        positions: &[usize],
    ) -> (Array2<f32>, Array2<f32>, Array2<f32>) {
        let mut queries = self.linear(Role::Query).forward(x);
        let mut keys = self.linear(Role::Key).forward(x);
        let values = self.linear(Role::Value).forward(x);
        for rotated in [&mut queries, &mut keys] {
            let width = rotated.ncols();
            self.rope.rotate(flat_mut(rotated), width, positions);
        }
        (queries, keys, values)
    }

    fn mix(&self, queries: &Array2<f32>, seq_lens: &[usize], caches: &[&KeyValues]) -> Array2<f32> {
        let mut out = Array2::zeros(queries.raw_dim());
        let width = queries.ncols();
        let (mut q_rest, mut out_rest) = (flat(queries), flat_mut(&mut out));
        let mut sequences = Vec::with_capacity(seq_lens.len());
        for (len, &cache) in seq_lens.iter().zip(caches) {
            let (queries, rest) = q_rest.split_at(len * width);
            q_rest = rest;
            let (out, rest) = out_rest.split_at_mut(len * width);
            out_rest = rest;
            sequences.push(Sequence { queries, cache, out });
        }
        attend(sequences, self.heads);
        out
    }

    /// Adds the output projection of `y` to the residual stream.
    pub fn attention_output(&self, y: ArrayView2<'_, f32>, h: &mut Array2<f32>) {
        *h += &self.linear(Role::AttentionOutput).forward(y);
    }

    /// The normalized residual stream: to the input of gate and up.
    pub fn mlp_input(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        self.mlp_norm.forward(h)
    }

    /// `silu(gate(x)) · up(x)`: the input of down, `(n_tokens, intermediate_size)`.
    pub fn mlp_mix(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut gate = self.linear(Role::Gate).forward(x);
        let up = self.linear(Role::Up).forward(x);
        /// Values that a thread takes at a time.
        const PIECE: usize = 1 << 14;
        let level = Level::detect();
        let pieces = flat_mut(&mut gate).par_chunks_mut(PIECE).zip(flat(&up).par_chunks(PIECE));
        pieces.for_each(|(gate, up)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = silu(*gate) * up;
                    }
                },
            );
        });
        gate
    }

    /// Adds the down projection of `y` to the residual stream.
    pub fn mlp_output(&self, y: ArrayView2<'_, f32>, h: &mut Array2<f32>) {
        *h += &self.linear(Role::Down).forward(y);
    }

    /// All stages: the residual stream before this block to the one after it. `tap` sees the input of the linear layers at each site, in
    /// the order of computation.
    ///
    /// # Panics
    /// If the lengths do not add up to the rows of `h`.
    pub fn forward(
        &self,
        h: &mut Array2<f32>,
        seq_lens: &[usize],
        tap: impl FnMut(Site, ArrayView2<'_, f32>),
    ) {
        self.stages(h, |block, x| block.attention_mix(x, seq_lens), tap);
    }

    /// All stages for the next tokens of one sequence.
    pub(crate) fn forward_cached(&self, h: &mut Array2<f32>, cache: &mut KeyValues) {
        self.stages(h, |block, x| block.attention_mix_cached(x, cache), |_, _| ());
    }

    fn stages(
        &self,
        h: &mut Array2<f32>,
        mix: impl FnOnce(&Self, ArrayView2<'_, f32>) -> Array2<f32>,
        mut tap: impl FnMut(Site, ArrayView2<'_, f32>),
    ) {
        let x = self.attention_input(h.view());
        tap(Site::AttentionInput, x.view());
        let y = mix(self, x.view());
        tap(Site::AttentionMix, y.view());
        self.attention_output(y.view(), h);
        let x = self.mlp_input(h.view());
        tap(Site::MlpInput, x.view());
        let y = self.mlp_mix(x.view());
        tap(Site::MlpMix, y.view());
        self.mlp_output(y.view(), h);
    }

    /// Heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        self.heads
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        let norms = size_of_val(&*self.attention_norm.weight) + size_of_val(&*self.mlp_norm.weight);
        self.linears.iter().map(Linear::bytes).sum::<usize>() + norms
    }
}

fn flat(x: &Array2<f32>) -> &[f32] {
    x.as_slice().expect("arrays of this crate are contiguous")
}

fn flat_mut(x: &mut Array2<f32>) -> &mut [f32] {
    x.as_slice_mut().expect("arrays of this crate are contiguous")
}
