//! A model whose parts can be learned.

use std::borrow::Cow;

use fewbit_checkpoint::{Checkpoint, Container, Dtype, Weight};
use fewbit_format::{MatrixShape, Plan, Quantized, Scheme};
use fewbit_model::{ModelConfig, Site};

use crate::{
    QatError,
    block::{Geometry, Tape, backward_block, forward_block},
    fake::FakeMatrix,
    norm,
    param::{ANY, Kind, Learn, Param},
    pool::Pool,
    product,
    tensors::{BlockTensors, BlockView, EndTensors, LAST_NORM, ROLES, as_stored, norm_gain},
};

/// A linear layer's weight.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// Floats as they are.
    Float(Vec<f32>),
    /// Rounded on the way.
    Fake(FakeMatrix),
}

/// A transformer block whose parts can be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainBlock {
    modules: [String; 7],
    norm_names: [String; 2],
    layers: [Layer; 7],
    biases: [Option<Vec<f32>>; 7],
    norms: [Vec<f32>; 2],
    /// What norms and biases are rounded to on the way.
    dtype: Dtype,
}

/// From where a quantized block begins.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Ranges of least squared error and the nearest codes.
    Nearest,
    /// The codes of a quantized checkpoint, such as our GPTQ result.
    Checkpoint(&'a Checkpoint),
}

impl TrainBlock {
    /// A block of floats.
    pub fn float(config: &ModelConfig, layer: usize, tensors: BlockTensors) -> Self {
        let BlockTensors { linears, biases, norms, dtype } = tensors;
        Self {
            modules: ROLES.map(|role| config.module(layer, role)),
            norm_names: [Site::AttentionInput, Site::MlpInput]
                .map(|site| norm_gain(config, layer, site)),
            layers: linears.map(Layer::Float),
            biases,
            norms,
            dtype,
        }
    }

    /// A block whose matrices take the grids of a plan, which `container` will carry.
    ///
    /// # Errors
    /// If a grid cannot be trained, or the checkpoint to begin with has other ones.
    pub fn quantize(
        config: &ModelConfig,
        layer: usize,
        tensors: BlockTensors,
        plan: &Plan,
        container: &dyn Container,
        start: Start<'_>,
    ) -> Result<Self, QatError> {
        let mut block = Self::float(config, layer, tensors);
        for (role, (module, layer)) in
            ROLES.into_iter().zip(block.modules.iter().zip(&mut block.layers))
        {
            let scheme = plan.scheme(module);
            let Layer::Float(weight) = &*layer else { continue };
            let (shape, least) = (config.shape(role), least_zero_point(container, &scheme));
            let fake = match (scheme, start) {
                (Scheme::Float, _) => continue,
                (scheme, Start::Nearest) => FakeMatrix::fit(module, weight, shape, scheme, least)?,
                (scheme, Start::Checkpoint(checkpoint)) => {
                    let matrix = begin(module, checkpoint, scheme, shape)?;
                    FakeMatrix::start(module, weight, &matrix, least)?
                }
            };
            *layer = Layer::Fake(fake);
        }
        Ok(block)
    }

    /// The matrices on grids.
    pub fn matrices(&self) -> impl Iterator<Item = &FakeMatrix> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Fake(matrix) => Some(matrix),
            Layer::Float(_) => None,
        })
    }

    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut FakeMatrix> {
        self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Fake(matrix) => Some(matrix),
            Layer::Float(_) => None,
        })
    }

    #[cfg(test)]
    pub(crate) fn layers_mut(&mut self) -> &mut [Layer; 7] {
        &mut self.layers
    }

    /// Begins to learn which way weights are rounded.
    pub(crate) fn learn_rounding(&mut self) {
        self.matrices_mut().for_each(FakeMatrix::learn_rounding);
    }

    /// Float tensors by name: weights of layers without a grid, biases, norms.
    pub(crate) fn floats(&self) -> impl Iterator<Item = (String, &[f32])> {
        let weights =
            self.modules.iter().zip(&self.layers).filter_map(|(module, layer)| match layer {
                Layer::Float(weight) => Some((format!("{module}.weight"), &weight[..])),
                Layer::Fake(_) => None,
            });
        let biases = self.modules.iter().zip(&self.biases);
        let biases =
            biases.filter_map(|(module, bias)| Some((format!("{module}.bias"), bias.as_deref()?)));
        let norms = self.norm_names.iter().zip(&self.norms);
        weights.chain(biases).chain(norms.map(|(name, gain)| (name.clone(), &gain[..])))
    }

    /// The weights as they are multiplied.
    pub(crate) fn effective(&self, pool: &mut Pool) -> Effective<'_> {
        let linears = self.layers.each_ref().map(|layer| match layer {
            Layer::Float(weight) => Cow::Borrowed(&weight[..]),
            Layer::Fake(matrix) => {
                let mut values = pool.take(matrix.shape().len());
                matrix.round_into(&mut values);
                Cow::Owned(values)
            }
        });
        let stored = |values| as_stored(values, self.dtype);
        Effective {
            linears,
            biases: self.biases.each_ref().map(|bias| bias.as_deref().map(stored)),
            norms: self.norms.each_ref().map(|gain| stored(gain)),
        }
    }

    /// What is learned, in the order of [`gradients`](Self::gradients).
    pub(crate) fn learned<'a>(&'a mut self, learn: Learn, out: &mut Vec<Param<'a>>) {
        for (module, layer) in self.modules.iter().zip(&mut self.layers) {
            match layer {
                Layer::Fake(matrix) => matrix.learned(learn, out),
                Layer::Float(values) if learn.weights && learn.ends => out.push(Param {
                    name: format!("{module}.weight"),
                    kind: Kind::Weight,
                    unit: 1.0,
                    range: ANY,
                    values,
                }),
                Layer::Float(_) => {}
            }
        }
        if !learn.norms {
            return;
        }
        let biases = self.modules.iter().zip(&mut self.biases);
        let biases = biases.filter_map(|(m, bias)| Some((format!("{m}.bias"), bias.as_mut()?)));
        let norms = self.norm_names.iter().cloned().zip(&mut self.norms);
        out.extend(biases.chain(norms).map(|(name, values)| Param {
            name,
            kind: Kind::Norm,
            unit: 1.0,
            range: ANY,
            values,
        }));
    }

    /// From gradients by the values as they are multiplied to those by what is learned.
    pub(crate) fn gradients(&self, by_values: BlockTensors, learn: Learn, out: &mut Vec<Vec<f32>>) {
        let BlockTensors { linears, biases, norms, .. } = by_values;
        for (layer, d) in self.layers.iter().zip(linears) {
            match layer {
                Layer::Fake(matrix) => matrix.backward(d, learn, out),
                Layer::Float(_) if learn.weights && learn.ends => out.push(d),
                Layer::Float(_) => {}
            }
        }
        if learn.norms {
            out.extend(biases.into_iter().flatten().chain(norms));
        }
    }
}

/// The least zero point that a container stores of a scheme.
fn least_zero_point(container: &dyn Container, scheme: &Scheme) -> u8 {
    match scheme {
        Scheme::Int(scheme) => container.least_zero_point(scheme),
        _ => 0,
    }
}

/// The quantized matrix of a checkpoint, in the layout of a scheme.
fn begin(
    module: &str,
    checkpoint: &Checkpoint,
    scheme: Scheme,
    shape: MatrixShape,
) -> Result<Quantized, QatError> {
    let found = match checkpoint.weight(module)? {
        // A file of blocks may hold the same grid in another layout.
        Weight::Quant(matrix) if matrix.scheme() != scheme => {
            matrix.relay(&scheme).map_or(Weight::Quant(matrix), Weight::Quant)
        }
        other => other,
    };
    match found {
        Weight::Quant(matrix) if matrix.scheme() == scheme && matrix.shape() == shape => Ok(matrix),
        other => {
            let got = match other {
                Weight::Quant(matrix) => matrix.scheme().to_string(),
                Weight::Float { .. } => "floats".into(),
            };
            let (module, planned) = (module.to_owned(), scheme.to_string());
            Err(QatError::Start { module, got, planned })
        }
    }
}

/// A block's weights as they are multiplied.
pub(crate) struct Effective<'a> {
    linears: [Cow<'a, [f32]>; 7],
    biases: [Option<Cow<'a, [f32]>>; 7],
    norms: [Cow<'a, [f32]>; 2],
}

impl Effective<'_> {
    pub(crate) fn view(&self) -> BlockView<'_> {
        BlockView {
            linears: self.linears.each_ref().map(|w| &**w),
            biases: self.biases.each_ref().map(Option::as_deref),
            norms: self.norms.each_ref().map(|gain| &**gain),
        }
    }

    pub(crate) fn give(self, pool: &mut Pool) {
        for weight in self.linears {
            if let Cow::Owned(weight) = weight {
                pool.give(weight);
            }
        }
    }
}

/// A language model whose parts can be learned.
#[derive(Clone, Debug)]
pub struct Student {
    pub(crate) config: ModelConfig,
    /// Embedding, last norm and head.
    pub(crate) ends: EndTensors,
    /// First to last.
    pub(crate) blocks: Vec<TrainBlock>,
}

impl Student {
    /// A float model.
    ///
    /// # Errors
    /// If the architecture cannot be trained, or a tensor is missing, unreadable, quantized or of another size than the configuration says.
    pub fn float(checkpoint: &Checkpoint) -> Result<Self, QatError> {
        let config = ModelConfig::of(checkpoint)?;
        let ends = EndTensors::load(checkpoint, &config)?;
        let block = |layer| {
            let tensors = BlockTensors::load(checkpoint, &config, layer)?;
            Ok(TrainBlock::float(&config, layer, tensors))
        };
        let blocks = (0..config.n_layers).map(block).collect::<Result<_, QatError>>()?;
        Ok(Self { config, ends, blocks })
    }

    /// A model whose matrices take the grids of a plan.
    ///
    /// # Errors
    /// As [`float`](Self::float) and [`TrainBlock::quantize`].
    pub fn quantize(
        checkpoint: &Checkpoint,
        plan: &Plan,
        container: &dyn Container,
        start: Start<'_>,
    ) -> Result<Self, QatError> {
        let config = ModelConfig::of(checkpoint)?;
        let ends = EndTensors::load(checkpoint, &config)?;
        let block = |layer| {
            let tensors = BlockTensors::load(checkpoint, &config, layer)?;
            TrainBlock::quantize(&config, layer, tensors, plan, container, start)
        };
        let blocks = (0..config.n_layers).map(block).collect::<Result<Vec<_>, _>>()?;
        Self::from_parts(config, ends, blocks)
    }

    /// A model from trained blocks.
    ///
    /// # Errors
    /// [`QatError::NothingToTrain`] if no matrix is on a grid.
    pub fn from_parts(
        config: ModelConfig,
        ends: EndTensors,
        blocks: Vec<TrainBlock>,
    ) -> Result<Self, QatError> {
        if blocks.iter().all(|block| block.matrices().next().is_none()) {
            return Err(QatError::NothingToTrain);
        }
        Ok(Self { config, ends, blocks })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The matrices on grids, first to last.
    pub fn matrices(&self) -> impl Iterator<Item = &FakeMatrix> {
        self.blocks.iter().flat_map(TrainBlock::matrices)
    }

    /// Fixes all codes, so that step sizes alone can be learned.
    pub(crate) fn freeze_codes(&mut self) {
        let matrices = self.blocks.iter_mut().flat_map(TrainBlock::matrices_mut);
        matrices.for_each(FakeMatrix::freeze_codes);
    }

    /// Float tensors by name, as the model stores them.
    pub(crate) fn floats(&self) -> impl Iterator<Item = (String, &[f32])> {
        let [embedding, head] = self.config.end_modules().map(|m| format!("{m}.weight"));
        let EndTensors { embedding: values, norm, head: own, .. } = &self.ends;
        let ends = [(embedding, &values[..]), (LAST_NORM.to_owned(), &norm[..])];
        let head = own.as_deref().map(|values| (head, values));
        let blocks = self.blocks.iter().flat_map(TrainBlock::floats);
        blocks.chain(ends).chain(head)
    }

    /// The residual stream before the first block, `(n_tokens, hidden_size)`.
    pub(crate) fn embed(&self, tokens: &[u32], pool: &mut Pool) -> Vec<f32> {
        let width = self.config.hidden_size;
        let mut h = pool.take(tokens.len() * width);
        for (h, &token) in h.chunks_exact_mut(width).zip(tokens) {
            h.copy_from_slice(&self.ends.embedding[token as usize * width..][..width]);
        }
        h
    }

    fn head_shape(&self) -> MatrixShape {
        MatrixShape::new(self.config.vocab_size, self.config.hidden_size)
    }

    /// Logits `(n_tokens, vocab_size)` of whole windows, one after another.
    ///
    /// # Panics
    /// If `tokens` are not whole windows of the geometry, or not in the vocabulary.
    pub fn logits(&self, tokens: &[u32], geometry: &Geometry) -> Vec<f32> {
        self.logits_in(tokens, geometry, &mut Pool::default())
    }

    pub(crate) fn logits_in(
        &self,
        tokens: &[u32],
        geometry: &Geometry,
        pool: &mut Pool,
    ) -> Vec<f32> {
        assert_eq!(tokens.len() % geometry.window(), 0, "whole windows");
        let mut h = self.embed(tokens, pool);
        for block in &self.blocks {
            let weights = block.effective(pool);
            forward_block(&weights.view(), geometry, &mut h, pool).give(pool);
            weights.give(pool);
        }
        let (x, factors) = self.last_norm(&h, pool);
        let mut logits = pool.take(tokens.len() * self.config.vocab_size);
        product::forward(&mut logits, &x, self.ends.head(), self.head_shape());
        [h, x, factors].into_iter().for_each(|buffer| pool.give(buffer));
        logits
    }

    fn last_norm(&self, h: &[f32], pool: &mut Pool) -> (Vec<f32>, Vec<f32>) {
        let mut x = pool.take(h.len());
        let mut factors = pool.take(h.len() / self.config.hidden_size);
        let eps = self.config.norm_eps;
        let gain = as_stored(&self.ends.norm, self.ends.dtype);
        norm::forward(&mut x, &mut factors, h, &gain, eps);
        (x, factors)
    }

    /// What is learned, in the order of [`gradient`](Self::gradient).
    pub(crate) fn learned(&mut self, learn: Learn) -> Vec<Param<'_>> {
        let mut out = Vec::new();
        for block in &mut self.blocks {
            block.learned(learn, &mut out);
        }
        let [embedding, head] = self.config.end_modules();
        let EndTensors { embedding: values, norm, head: own, .. } = &mut self.ends;
        let mut push = |name: &str, kind, values| {
            out.push(Param { name: name.to_owned(), kind, unit: 1.0, range: ANY, values });
        };
        if learn.norms {
            push(LAST_NORM, Kind::Norm, norm);
        }
        if learn.ends {
            push(&embedding, Kind::End, values);
            if let Some(own) = own {
                push(&head, Kind::End, own);
            }
        }
        out
    }

    /// A loss and its gradients. `loss` gets the logits, turns them into their gradient, and returns the value.
    pub(crate) fn gradient(
        &self,
        tokens: &[u32],
        geometry: &Geometry,
        learn: Learn,
        pool: &mut Pool,
        loss: impl FnOnce(&mut [f32]) -> f64,
    ) -> (f64, Vec<Vec<f32>>) {
        let width = self.config.hidden_size;
        let mut h = self.embed(tokens, pool);
        let mut passes: Vec<(Effective<'_>, Tape)> = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let weights = block.effective(pool);
            let tape = forward_block(&weights.view(), geometry, &mut h, pool);
            passes.push((weights, tape));
        }
        let (x, factors) = self.last_norm(&h, pool);
        let mut logits = pool.take(tokens.len() * self.config.vocab_size);
        product::forward(&mut logits, &x, self.ends.head(), self.head_shape());
        let value = loss(&mut logits);

        let mut dx = pool.take(x.len());
        product::grad_input(&mut dx, &logits, self.ends.head(), self.head_shape(), pool);
        let d_head = learn.ends.then(|| {
            let mut dw = pool.take(self.head_shape().len());
            product::grad_weight(&mut dw, &logits, &x, self.head_shape(), pool);
            dw
        });
        pool.give(logits);
        let mut dh = pool.take(h.len());
        dh.fill(0.0);
        let gain = as_stored(&self.ends.norm, self.ends.dtype);
        let d_norm = norm::backward(&mut dh, &dx, &factors, &h, &gain);
        [h, x, factors, dx].into_iter().for_each(|buffer| pool.give(buffer));

        let mut by_block = Vec::new();
        for (weights, tape) in passes.into_iter().rev() {
            by_block.push(backward_block(&weights.view(), geometry, tape, &mut dh, pool));
            weights.give(pool);
        }
        let mut grads = Vec::new();
        for (block, by_values) in self.blocks.iter().zip(by_block.into_iter().rev()) {
            block.gradients(by_values, learn, &mut grads);
        }
        if learn.norms {
            grads.push(d_norm);
        }
        if let Some(d_head) = d_head {
            let (mut d_embedding, d_head) = match self.ends.head {
                None => (d_head, None),
                Some(_) => {
                    let mut zeros = pool.take(d_head.len());
                    zeros.fill(0.0);
                    (zeros, Some(d_head))
                }
            };
            for (dh, &token) in dh.chunks_exact(width).zip(tokens) {
                product::add(&mut d_embedding[token as usize * width..][..width], dh);
            }
            grads.push(d_embedding);
            grads.extend(d_head);
        }
        pool.give(dh);
        (value, grads)
    }
}
