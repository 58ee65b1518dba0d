//! One transformer block, in four stages.

use std::sync::Arc;

use fewbit_checkpoint::Checkpoint;
use fewbit_kernels::{Level, vectorize};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Activations, CacheType, Linear, ModelConfig, ModelError, Role, Site,
    attention::{Heads, KeyValues, Sequence, attend},
    llama,
    math::silu,
    norm::RmsNorm,
    rope::Rope,
    workspace::{Workspace, sized},
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
        Self::load_with(checkpoint, config, layer, Activations::Float)
    }

    /// As [`load`](Self::load), with layers for inputs in either form.
    ///
    /// # Errors
    /// The same.
    pub fn load_with(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
        activations: Activations,
    ) -> Result<Self, ModelError> {
        let rope = Rope::new(config.head_dim, config.rope_theta, config.rope_scaling);
        Self::load_sharing(checkpoint, config, layer, activations, Arc::new(rope))
    }

    /// As [`load_with`](Self::load_with), with the rotary table of the other blocks.
    pub(crate) fn load_sharing(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
        activations: Activations,
        rope: Arc<Rope>,
    ) -> Result<Self, ModelError> {
        if layer >= config.n_layers {
            return Err(ModelError::NoSuchLayer { layer, n_layers: config.n_layers });
        }
        let linears = Role::ALL
            .iter()
            .map(|&role| llama::linear(checkpoint, config, layer, role, activations))
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

    /// A block from layers that are made somewhere else, in the order of [`Role::ALL`], and from what its two norms multiply by.
    ///
    /// # Panics
    /// If a shape is not what the configuration says.
    pub fn from_parts(
        config: &ModelConfig,
        layer: usize,
        linears: [Linear; 7],
        norm_gains: [Vec<f32>; 2],
    ) -> Self {
        for (role, linear) in Role::ALL.into_iter().zip(&linears) {
            assert_eq!(linear.shape(), config.shape(role), "shape of {role:?}");
        }
        let [attention_norm, mlp_norm] = norm_gains.map(|gain| RmsNorm::new(config, gain));
        let rope = Rope::new(config.head_dim, config.rope_theta, config.rope_scaling);
        Self {
            layer,
            modules: Role::ALL.map(|role| config.module(layer, role)),
            linears,
            attention_norm,
            mlp_norm,
            heads: Heads::new(config),
            rope: Arc::new(rope),
        }
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
        let mut work = Workspace { x: copied(x), ..Workspace::default() };
        self.mix_sequences(seq_lens, &mut work);
        rows(work.mixed, x.nrows())
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
        let mut work = Workspace { x: copied(x), ..Workspace::default() };
        self.mix_mlp(x.nrows(), &mut work);
        rows(work.gate, x.nrows())
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
        self.forward_in(h, seq_lens, tap, &mut Workspace::default());
    }

    /// As [`forward`](Self::forward), in memory that is kept.
    pub(crate) fn forward_in(
        &self,
        h: &mut Array2<f32>,
        seq_lens: &[usize],
        tap: impl FnMut(Site, ArrayView2<'_, f32>),
        work: &mut Workspace,
    ) {
        let h = h.as_slice_mut().expect("arrays of this crate are contiguous");
        self.stages(h, |work| self.mix_sequences(seq_lens, work), tap, work);
    }

    /// All stages for the next tokens of one sequence, which join its keys and values.
    pub(crate) fn forward_cached(
        &self,
        h: &mut [f32],
        cache: &mut KeyValues,
        work: &mut Workspace,
    ) {
        self.stages(h, |work| self.mix_cached(cache, work), |_, _| (), work);
    }

    fn stages(
        &self,
        h: &mut [f32],
        mix: impl FnOnce(&mut Workspace),
        mut tap: impl FnMut(Site, ArrayView2<'_, f32>),
        work: &mut Workspace,
    ) {
        let width = self.attention_norm.weight.len();
        let n_tokens = h.len() / width;
        let mut tap = |site, x: &[f32]| {
            let shape = (n_tokens, x.len() / n_tokens.max(1));
            tap(site, ArrayView2::from_shape(shape, x).expect("whole rows"));
        };

        self.attention_norm.forward_into(h, sized(&mut work.x, h.len()));
        tap(Site::AttentionInput, &work.x);
        mix(work);
        tap(Site::AttentionMix, &work.mixed);
        let Workspace { mixed, out, linear, .. } = work;
        let out = sized(out, h.len());
        self.linear(Role::AttentionOutput).forward_into(mixed, n_tokens, out, linear);
        add(h, out);

        self.mlp_norm.forward_into(h, sized(&mut work.x, h.len()));
        tap(Site::MlpInput, &work.x);
        self.mix_mlp(n_tokens, work);
        tap(Site::MlpMix, &work.gate);
        let Workspace { gate, out, linear, .. } = work;
        let out = sized(out, h.len());
        self.linear(Role::Down).forward_into(gate, n_tokens, out, linear);
        add(h, out);
    }

    /// Attention of whole sequences: from `x` to `mixed`.
    fn mix_sequences(&self, seq_lens: &[usize], work: &mut Workspace) {
        let n_tokens = seq_lens.iter().sum();
        let in_features = self.linear(Role::Query).shape().in_features;
        assert_eq!(n_tokens * in_features, work.x.len(), "lengths add up to all rows");
        self.project(&mut seq_lens.iter().flat_map(|&len| 0..len), n_tokens, work);
        let (width, kv_width) = (self.heads.width(), self.heads.kv_width());
        let mut rest = (&*work.keys, &*work.values);
        let pieces: Vec<_> = seq_lens
            .iter()
            .map(|len| {
                let (keys, keys_rest) = rest.0.split_at(len * kv_width);
                let (values, values_rest) = rest.1.split_at(len * kv_width);
                rest = (keys_rest, values_rest);
                (keys, values)
            })
            .collect();
        let caches: Vec<KeyValues> = pieces
            .into_par_iter()
            .map(|(keys, values)| {
                let mut cache = KeyValues::new(CacheType::F32, self.heads);
                cache.append(keys, values, self.heads);
                cache
            })
            .collect();

        let mut queries_rest = &*work.queries;
        let mut out_rest = sized(&mut work.mixed, work.queries.len());
        let mut sequences = Vec::with_capacity(seq_lens.len());
        for (len, cache) in seq_lens.iter().zip(&caches) {
            let (queries, rest) = queries_rest.split_at(len * width);
            queries_rest = rest;
            let (out, rest) = out_rest.split_at_mut(len * width);
            out_rest = rest;
            sequences.push(Sequence { queries, cache, out });
        }
        attend(sequences, self.heads);
    }

    /// Attention of the next tokens of one sequence: from `x` to `mixed`.
    fn mix_cached(&self, cache: &mut KeyValues, work: &mut Workspace) {
        let n_tokens = work.x.len() / self.linear(Role::Query).shape().in_features;
        let first = cache.n_tokens();
        self.project(&mut (first..first + n_tokens), n_tokens, work);
        cache.append(&work.keys, &work.values, self.heads);
        let out = sized(&mut work.mixed, work.queries.len());
        attend(vec![Sequence { queries: &work.queries, cache, out }], self.heads);
    }

    /// Rotated queries and keys, and values, of `x`.
    fn project(
        &self,
        positions: &mut dyn Iterator<Item = usize>,
        n_tokens: usize,
        work: &mut Workspace,
    ) {
        let Workspace { x, queries, keys, values, positions: all, linear, .. } = work;
        for (role, out) in
            [(Role::Query, &mut *queries), (Role::Key, &mut *keys), (Role::Value, values)]
        {
            let layer = self.linear(role);
            let out = sized(out, n_tokens * layer.shape().out_features);
            layer.forward_into(x, n_tokens, out, linear);
        }
        all.clear();
        all.extend(positions);
        self.rope.rotate(queries, self.heads.width(), all);
        self.rope.rotate(keys, self.heads.kv_width(), all);
    }

    /// `silu(gate(x)) · up(x)` in place of the gate.
    fn mix_mlp(&self, n_tokens: usize, work: &mut Workspace) {
        let Workspace { x, gate, up, linear, .. } = work;
        for (role, out) in [(Role::Gate, &mut *gate), (Role::Up, &mut *up)] {
            let layer = self.linear(role);
            let out = sized(out, n_tokens * layer.shape().out_features);
            layer.forward_into(x, n_tokens, out, linear);
        }
        in_pieces(
            gate,
            up,
            #[inline(always)]
            |gate, up| {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = silu(*gate) * up;
                }
            },
        );
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

/// `h += x`.
fn add(h: &mut [f32], x: &[f32]) {
    in_pieces(
        h,
        x,
        #[inline(always)]
        |h, x| {
            for (h, x) in h.iter_mut().zip(x) {
                *h += x;
            }
        },
    );
}

/// Calls `f`, compiled for the level of this machine, with pieces of both, in parallel where it pays.
fn in_pieces(a: &mut [f32], b: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync) {
    /// Values that a thread takes at a time.
    const PIECE: usize = 1 << 14;
    let level = Level::detect();
    a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE)).for_each(|(a, b)| {
        vectorize(
            level,
            #[inline(always)]
            || f(a, b),
        );
    });
}

fn copied(x: ArrayView2<'_, f32>) -> Vec<f32> {
    x.as_standard_layout().into_owned().into_raw_vec_and_offset().0
}

fn rows(values: Vec<f32>, n_rows: usize) -> Array2<f32> {
    let width = values.len() / n_rows.max(1);
    Array2::from_shape_vec((n_rows, width), values).expect("whole rows")
}
