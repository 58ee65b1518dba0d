//! One transformer block, in four stages.

use std::{convert::Infallible, sync::Arc};

use fewbit_checkpoint::Checkpoint;
use fewbit_kernels::{Level, vectorize};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Activation, Activations, Architecture, BlockNorm, CacheType, Groups, Linear, ModelConfig,
    ModelError, Role, Site,
    attention::{Heads, KeyValues, Sequence, attend},
    math::{gelu_tanh, silu},
    norm::Norm,
    rope::{Rope, Ropes},
    tree::{After, Segment},
    workspace::{Workspace, sized},
};

mod branches;

/// One transformer block: attention and MLP, each after a norm and added to the residual stream.
///
/// Its four stages each compute the input of some linear layers ([`groups`](Self::groups)):
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
///
/// What an architecture lacks is `None` here: a block is the same code for all of them.
#[derive(Clone, Debug)]
pub struct Block {
    layer: usize,
    architecture: &'static Architecture,
    /// By role.
    layers: [Option<Layer>; Role::ALL.len()],
    attention_norm: Norm,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    after_attention: Option<Norm>,
    mlp_norm: Norm,
    after_mlp: Option<Norm>,
    heads: Heads,
    /// Without it, positions are in the residual stream.
    rope: Option<Arc<Rope>>,
}

/// A linear layer and its module name.
#[derive(Clone, Debug)]
struct Layer {
    module: String,
    linear: Linear,
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
        Self::load_sharing(checkpoint, config, layer, activations, &mut Ropes::default())
    }

    /// As [`load_with`](Self::load_with), with the rotary tables of the other blocks.
    pub(crate) fn load_sharing(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
        activations: Activations,
        ropes: &mut Ropes,
    ) -> Result<Self, ModelError> {
        if layer >= config.n_layers {
            return Err(ModelError::NoSuchLayer { layer, n_layers: config.n_layers });
        }
        Self::new(
            config,
            layer,
            |role| config.linear(checkpoint, layer, role, activations),
            |name, shape| config.tensor(checkpoint, name, shape),
            ropes.of(config, layer),
        )
    }

    /// A block from layers that are made somewhere else, in the order of [`ModelConfig::roles`], and from the tensors of its norms, by name and
    /// shape.
    ///
    /// # Panics
    /// If there are not as many layers, or a shape is not what the configuration says.
    pub fn from_parts(
        config: &ModelConfig,
        layer: usize,
        linears: Vec<Linear>,
        mut vector: impl FnMut(&str, &[usize]) -> Vec<f32>,
    ) -> Self {
        let mut linears = linears.into_iter();
        let block = Self::new::<Infallible>(
            config,
            layer,
            |_| Ok(linears.next().expect("a layer for each role")),
            |name, shape| {
                let values = vector(name, shape);
                assert_eq!(values.len(), shape.iter().product::<usize>(), "length of {name}");
                Ok(values)
            },
            Ropes::default().of(config, layer),
        );
        assert!(linears.next().is_none(), "a role for each layer");
        block.unwrap_or_else(|never| match never {})
    }

    fn new<E>(
        config: &ModelConfig,
        layer: usize,
        mut linear: impl FnMut(Role) -> Result<Linear, E>,
        mut vector: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
        rope: Option<Arc<Rope>>,
    ) -> Result<Self, E> {
        let mut layers = Role::ALL.map(|_| None);
        for role in config.roles() {
            let linear = linear(role)?;
            assert_eq!(linear.shape(), config.shape(role), "shape of {role:?}");
            layers[role as usize] = Some(Layer { module: config.module(layer, role), linear });
        }
        let mut norm = |kind: BlockNorm, width: usize| -> Result<Option<Norm>, E> {
            let tensors = config.block_norm(layer, kind);
            tensors.map(|tensors| config.read_norm(&tensors, width, &mut vector)).transpose()
        };
        let (hidden, head) = (config.hidden_size, config.head_dim);
        Ok(Self {
            layer,
            architecture: config.architecture,
            layers,
            attention_norm: norm(BlockNorm::Attention, hidden)?.expect("every architecture's"),
            query_norm: norm(BlockNorm::Query, head)?,
            key_norm: norm(BlockNorm::Key, head)?,
            after_attention: norm(BlockNorm::AfterAttention, hidden)?,
            mlp_norm: norm(BlockNorm::Mlp, hidden)?.expect("every architecture's"),
            after_mlp: norm(BlockNorm::AfterMlp, hidden)?,
            heads: Heads::new(config, layer),
            rope,
        })
    }

    /// Which block of the model this is, from 0.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The sites of this block in the order of computation, each with the layers that read it.
    pub fn groups(&self) -> Groups {
        self.architecture.groups()
    }

    /// Its linear layers, in the order of computation.
    pub fn roles(&self) -> impl Iterator<Item = Role> + Clone + use<> {
        self.architecture.roles()
    }

    /// Module name of a linear layer, such as `model.layers.3.self_attn.q_proj`.
    ///
    /// # Panics
    /// If the block has no such layer.
    pub fn module(&self, role: Role) -> &str {
        &self.layer_of(role).module
    }

    /// A linear layer.
    ///
    /// # Panics
    /// If the block has no such layer.
    pub fn linear(&self, role: Role) -> &Linear {
        &self.layer_of(role).linear
    }

    /// Replaces a linear layer.
    ///
    /// # Panics
    /// If the block has no such layer, or its shape differs.
    pub fn set_linear(&mut self, role: Role, linear: Linear) {
        let place = self.layers[role as usize].as_mut().expect("a layer of this architecture");
        assert_eq!(linear.shape(), place.linear.shape(), "a layer keeps its shape");
        place.linear = linear;
    }

    fn layer_of(&self, role: Role) -> &Layer {
        self.layers[role as usize].as_ref().expect("a layer of this architecture")
    }

    /// Replaces what a file stores of the norm before a site: what it multiplies by, one value for each channel, and what it adds.
    ///
    /// # Panics
    /// If there is no norm before the site, or a length differs.
    pub fn set_norm(&mut self, site: Site, gain: Vec<f32>, bias: Option<Vec<f32>>) {
        match site {
            Site::AttentionInput => self.attention_norm.replace(gain, bias),
            Site::MlpInput => self.mlp_norm.replace(gain, bias),
            Site::AttentionMix | Site::MlpMix => panic!("no norm before {site:?}"),
        }
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

    /// Adds the output projection of `y` to the residual stream, normalized where the architecture does so.
    pub fn attention_output(&self, y: ArrayView2<'_, f32>, h: &mut Array2<f32>) {
        *h += &normalized(self.linear(Role::AttentionOutput).forward(y), &self.after_attention);
    }

    /// The normalized residual stream: to the input of gate and up.
    pub fn mlp_input(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        self.mlp_norm.forward(h)
    }

    /// The input of down, `(n_tokens, intermediate_size)`: `activation(gate(x)) · up(x)`, or without a gate `activation(up(x))`.
    pub fn mlp_mix(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut work = Workspace { x: copied(x), ..Workspace::default() };
        self.mix_mlp(x.nrows(), &mut work);
        rows(work.inner, x.nrows())
    }

    /// Adds the down projection of `y` to the residual stream, normalized where the architecture does so.
    pub fn mlp_output(&self, y: ArrayView2<'_, f32>, h: &mut Array2<f32>) {
        *h += &normalized(self.linear(Role::Down).forward(y), &self.after_mlp);
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
        let width = self.attention_norm.width();
        let n_tokens = h.len() / width;
        let mut tap = |site, x: &[f32]| {
            let shape = (n_tokens, x.len() / n_tokens.max(1));
            tap(site, ArrayView2::from_shape(shape, x).expect("whole rows"));
        };

        self.attention_norm.forward_into(h, sized(&mut work.x, h.len()));
        tap(Site::AttentionInput, &work.x);
        mix(work);
        self.stages_after_mix(h, tap, work);
    }

    /// The stages from `mixed` on.
    fn stages_after_mix(
        &self,
        h: &mut [f32],
        mut tap: impl FnMut(Site, &[f32]),
        work: &mut Workspace,
    ) {
        let n_tokens = h.len() / self.attention_norm.width();
        tap(Site::AttentionMix, &work.mixed);
        let Workspace { mixed, out, linear, .. } = work;
        let out = sized(out, h.len());
        self.linear(Role::AttentionOutput).forward_into(mixed, n_tokens, out, linear);
        if let Some(norm) = &self.after_attention {
            norm.apply(out);
        }
        add(h, out);

        self.mlp_norm.forward_into(h, sized(&mut work.x, h.len()));
        tap(Site::MlpInput, &work.x);
        self.mix_mlp(n_tokens, work);
        tap(Site::MlpMix, &work.inner);
        let Workspace { inner, out, linear, .. } = work;
        let out = sized(out, h.len());
        self.linear(Role::Down).forward_into(inner, n_tokens, out, linear);
        if let Some(norm) = &self.after_mlp {
            norm.apply(out);
        }
        add(h, out);
    }

    /// Attention of whole sequences: from `x` to `mixed`.
    fn mix_sequences(&self, seq_lens: &[usize], work: &mut Workspace) {
        let segment = |&len| Segment { after: After::Kept(0), first: 0, len, wanted: len };
        let segments: Vec<Segment> = seq_lens.iter().map(segment).collect();
        let mut nothing = KeyValues::new(CacheType::F32, self.heads);
        self.mix_branches(&segments, &mut nothing, After::Kept(0), false, work);
    }

    /// Attention of the next tokens of one sequence: from `x` to `mixed`.
    fn mix_cached(&self, cache: &mut KeyValues, work: &mut Workspace) {
        let n_tokens = work.x.len() / self.attention_norm.width();
        let first = cache.n_tokens();
        self.project(&mut (first..first + n_tokens), n_tokens, work);
        cache.append(&work.keys, &work.values, self.heads);
        let out = sized(&mut work.mixed, work.queries.len());
        attend(vec![Sequence { queries: &work.queries, cache, out }], self.heads);
    }

    /// Normalized and rotated queries and keys, and values, of `x`.
    fn project(
        &self,
        positions: &mut dyn Iterator<Item = usize>,
        n_tokens: usize,
        work: &mut Workspace,
    ) {
        let (width, kv_width) = (self.heads.width(), self.heads.kv_width());
        let Workspace { x, fused, queries, keys, values, positions: all, linear, .. } = work;
        let queries = sized(queries, n_tokens * width);
        let keys = sized(keys, n_tokens * kv_width);
        let values = sized(values, n_tokens * kv_width);
        if let Some(Layer { linear: layer, .. }) = &self.layers[Role::QueryKeyValue as usize] {
            let fused = sized(fused, n_tokens * (width + 2 * kv_width));
            layer.forward_into(x, n_tokens, fused, linear);
            split_rows(fused, [queries, keys, values], [width, kv_width, kv_width]);
        } else {
            self.linear(Role::Query).forward_into(x, n_tokens, queries, linear);
            self.linear(Role::Key).forward_into(x, n_tokens, keys, linear);
            self.linear(Role::Value).forward_into(x, n_tokens, values, linear);
        }
        if let Some(norm) = &self.query_norm {
            norm.apply(queries);
        }
        if let Some(norm) = &self.key_norm {
            norm.apply(keys);
        }
        if let Some(rope) = &self.rope {
            all.clear();
            all.extend(positions);
            rope.rotate(queries, width, all);
            rope.rotate(keys, kv_width, all);
        }
    }

    /// From `x` to `inner`.
    fn mix_mlp(&self, n_tokens: usize, work: &mut Workspace) {
        let Workspace { x, inner, up, linear, .. } = work;
        let up_layer = self.linear(Role::Up);
        let len = n_tokens * up_layer.shape().out_features;
        let Some(Layer { linear: gate, .. }) = &self.layers[Role::Gate as usize] else {
            let inner = sized(inner, len);
            up_layer.forward_into(x, n_tokens, inner, linear);
            return self.activate(inner);
        };
        let (inner, up) = (sized(inner, len), sized(up, len));
        gate.forward_into(x, n_tokens, inner, linear);
        up_layer.forward_into(x, n_tokens, up, linear);
        self.activate_gate(inner, up);
    }

    /// `activation(x)`.
    fn activate(&self, x: &mut [f32]) {
        match self.architecture.activation {
            Activation::Silu => in_pieces(
                x,
                &[],
                #[inline(always)]
                |x, _| x.iter_mut().for_each(|x| *x = silu(*x)),
            ),
            Activation::GeluTanh => in_pieces(
                x,
                &[],
                #[inline(always)]
                |x, _| x.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
            ),
        }
    }

    /// `activation(gate) · up` in place of the gate.
    fn activate_gate(&self, gate: &mut [f32], up: &[f32]) {
        match self.architecture.activation {
            Activation::Silu => in_pieces(
                gate,
                up,
                #[inline(always)]
                |gate, up| {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = silu(*gate) * up;
                    }
                },
            ),
            Activation::GeluTanh => in_pieces(
                gate,
                up,
                #[inline(always)]
                |gate, up| {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = gelu_tanh(*gate) * up;
                    }
                },
            ),
        }
    }

    /// Heads and their width.
    pub(crate) fn heads(&self) -> Heads {
        self.heads
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        let norms = [&self.query_norm, &self.key_norm, &self.after_attention, &self.after_mlp];
        let norms = norms.into_iter().flatten().chain([&self.attention_norm, &self.mlp_norm]);
        let layers = self.layers.iter().flatten().map(|layer| layer.linear.bytes());
        layers.sum::<usize>() + norms.map(Norm::bytes).sum::<usize>()
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

/// Calls `f`, compiled for the level of this machine, with pieces of both, in parallel where it pays. `b` is as long as `a`, or empty.
fn in_pieces(a: &mut [f32], b: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync) {
    /// Values that a thread takes at a time.
    const PIECE: usize = 1 << 14;
    let level = Level::detect();
    a.par_chunks_mut(PIECE).enumerate().for_each(|(i, a)| {
        let b = if b.is_empty() { b } else { &b[i * PIECE..][..a.len()] };
        vectorize(
            level,
            #[inline(always)]
            || f(a, b),
        );
    });
}

/// Parts of each row into matrices of their own.
fn split_rows<const N: usize>(rows: &[f32], mut parts: [&mut [f32]; N], widths: [usize; N]) {
    for (i, mut row) in rows.chunks_exact(widths.iter().sum()).enumerate() {
        for (part, width) in parts.iter_mut().zip(widths) {
            let (own, rest) = row.split_at(width);
            part[i * width..][..width].copy_from_slice(own);
            row = rest;
        }
    }
}

/// What a norm makes of rows, if there is one.
fn normalized(mut rows: Array2<f32>, norm: &Option<Norm>) -> Array2<f32> {
    if let Some(norm) = norm {
        norm.apply(rows.as_slice_mut().expect("arrays of this crate are contiguous"));
    }
    rows
}

fn copied(x: ArrayView2<'_, f32>) -> Vec<f32> {
    x.as_standard_layout().into_owned().into_raw_vec_and_offset().0
}

fn rows(values: Vec<f32>, n_rows: usize) -> Array2<f32> {
    let width = values.len() / n_rows.max(1);
    Array2::from_shape_vec((n_rows, width), values).expect("whole rows")
}
