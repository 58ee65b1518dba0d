//! A model whose parts can be learned.

use std::borrow::Cow;

use fewbit_checkpoint::{Checkpoint, Container, Dtype, Weight};
use fewbit_format::{IntGrid, Plan, Quantized, Scheme};
use fewbit_model::{ModelConfig, NormTensors};

use crate::{
    QatError,
    block::{Geometry, Tape, backward_block, forward_block},
    fake::FakeMatrix,
    loss,
    norm::Norm,
    param::{ANY, Kind, Learn, Param},
    pool::Pool,
    product,
    tensors::{
        BlockTensors, EndTensors, FloatTensor, NormValues, StoredNorm, as_stored, norm_tensors,
    },
};
use fewbit_format::MatrixShape;

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
    /// Which block of the model this is.
    layer: usize,
    modules: Vec<String>,
    norm_names: Vec<NormTensors>,
    layers: Vec<Layer>,
    biases: Vec<Option<Vec<f32>>>,
    norms: Vec<NormValues>,
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
            layer,
            modules: config.roles().map(|role| config.module(layer, role)).collect(),
            norm_names: norm_tensors(config, layer),
            layers: linears.into_iter().map(Layer::Float).collect(),
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
            config.roles().zip(block.modules.iter().zip(&mut block.layers))
        {
            let scheme = match plan.scheme(module) {
                Scheme::Float => continue,
                Scheme::Int(scheme) => scheme,
                other => {
                    let (module, grid) = (module.clone(), other.to_string());
                    return Err(QatError::Grid { module, grid });
                }
            };
            let Layer::Float(weight) = &*layer else { continue };
            let least = container.least_zero_point(&scheme);
            let fake = match start {
                Start::Nearest => {
                    let grid = IntGrid::new(scheme).with_least_zero_point(least);
                    FakeMatrix::fit(module, weight, config.shape(role), grid)?
                }
                Start::Checkpoint(checkpoint) => {
                    let planned = Scheme::Int(scheme);
                    let found = checkpoint.weight(module)?;
                    // A file of blocks may hold the same grid in another layout.
                    let found = match found {
                        Weight::Quant(matrix) if matrix.scheme() != planned => {
                            matrix.relay(&planned).map_or(Weight::Quant(matrix), Weight::Quant)
                        }
                        other => other,
                    };
                    match found {
                        Weight::Quant(Quantized::Int(matrix))
                            if matrix.scheme() == scheme
                                && matrix.shape() == config.shape(role) =>
                        {
                            FakeMatrix::start(module, weight, &matrix, least)?
                        }
                        other => {
                            let got = match other {
                                Weight::Quant(matrix) => matrix.scheme().to_string(),
                                Weight::Float { .. } => "floats".into(),
                            };
                            let (module, planned) = (module.clone(), planned.to_string());
                            return Err(QatError::Start { module, got, planned });
                        }
                    }
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
    pub(crate) fn layers_mut(&mut self) -> &mut [Layer] {
        &mut self.layers
    }

    /// Begins to learn which way weights are rounded.
    pub(crate) fn learn_rounding(&mut self) {
        self.matrices_mut().for_each(FakeMatrix::learn_rounding);
    }

    /// Float tensors: weights of layers without a grid, biases, norms.
    pub(crate) fn floats<'a>(
        &'a self,
        config: &'a ModelConfig,
    ) -> impl Iterator<Item = FloatTensor<'a>> {
        let layers = config.roles().zip(self.modules.iter().zip(&self.layers));
        let weights = layers.filter_map(|(role, (module, layer))| match layer {
            Layer::Float(weight) => Some(FloatTensor::weight(config, module, role, weight)),
            Layer::Fake(_) => None,
        });
        let biases = self.modules.iter().zip(&self.biases);
        let biases = biases.filter_map(|(module, bias)| {
            Some(FloatTensor::new(format!("{module}.bias"), bias.as_deref()?))
        });
        let norms = self.norm_names.iter().zip(&self.norms);
        weights.chain(biases).chain(norms.flat_map(|(names, values)| norm_floats(names, values)))
    }

    /// The weights as they are multiplied.
    pub(crate) fn effective(&self, pool: &mut Pool) -> Effective<'_> {
        let linears = self.layers.iter().map(|layer| match layer {
            Layer::Float(weight) => Cow::Borrowed(&weight[..]),
            Layer::Fake(matrix) => {
                let mut values = pool.take(matrix.shape().len());
                matrix.round_into(&mut values);
                Cow::Owned(values)
            }
        });
        let stored = |values| as_stored(values, self.dtype);
        Effective {
            layer: self.layer,
            linears: linears.collect(),
            biases: self.biases.iter().map(|bias| bias.as_deref().map(stored)).collect(),
            norms: self.norms.iter().map(|norm| norm.as_stored(self.dtype)).collect(),
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
        let norms = self.norm_names.iter().zip(&mut self.norms);
        let norms = norms.flat_map(|(names, values)| norm_learned(names, values));
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
            out.extend(biases.into_iter().flatten());
            out.extend(norms.into_iter().flat_map(NormValues::into_values));
        }
    }
}

/// Tensors of a norm by name.
fn norm_floats<'a>(
    names: &NormTensors,
    values: &'a NormValues,
) -> impl Iterator<Item = FloatTensor<'a>> + use<'a> {
    let gain = FloatTensor::new(names.gain.clone(), &values.gain);
    let bias = names.bias.clone().zip(values.bias.as_deref());
    [gain].into_iter().chain(bias.map(|(name, bias)| FloatTensor::new(name, bias)))
}

/// The same, to be changed.
fn norm_learned<'a>(
    names: &NormTensors,
    values: &'a mut NormValues,
) -> impl Iterator<Item = (String, &'a mut Vec<f32>)> + use<'a> {
    let bias = names.bias.clone().zip(values.bias.as_mut());
    [(names.gain.clone(), &mut values.gain)].into_iter().chain(bias)
}

/// A block's weights as they are multiplied, in the orders of [`BlockTensors`].
pub(crate) struct Effective<'a> {
    /// Which block of the model it is.
    pub(crate) layer: usize,
    pub(crate) linears: Vec<Cow<'a, [f32]>>,
    pub(crate) biases: Vec<Option<Cow<'a, [f32]>>>,
    pub(crate) norms: Vec<StoredNorm<'a>>,
}

impl Effective<'_> {
    /// A norm of the block.
    pub(crate) fn norm(&self, place: usize, config: &ModelConfig) -> Norm<'_> {
        self.norms[place].norm(config)
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

    /// Float tensors, as the model has them.
    pub(crate) fn floats(&self) -> impl Iterator<Item = FloatTensor<'_>> {
        let [embedding, head] = self.config.end_modules().map(|m| format!("{m}.weight"));
        let EndTensors { embedding: values, positions, norm, head: own, .. } = &self.ends;
        let tensor = |(name, values)| FloatTensor::new(name, values);
        let blocks = self.blocks.iter().flat_map(|block| block.floats(&self.config));
        blocks
            .chain([tensor((embedding, values))])
            .chain(self.config.positions().zip(positions.as_deref()).map(tensor))
            .chain(norm_floats(&self.config.final_norm(), norm))
            .chain(own.as_deref().map(|values| tensor((head, values))))
    }

    /// The residual stream before the first block, `(n_tokens, hidden_size)`.
    fn embed(&self, tokens: &[u32], geometry: &Geometry, pool: &mut Pool) -> Vec<f32> {
        let mut h = pool.take(tokens.len() * self.config.hidden_size);
        self.ends.embed(&mut h, tokens, geometry.window());
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
        let mut h = self.embed(tokens, geometry, pool);
        for block in &self.blocks {
            let weights = block.effective(pool);
            forward_block(&weights, geometry, &mut h, pool).give(pool);
            weights.give(pool);
        }
        let norm = self.ends.norm.as_stored(self.ends.dtype);
        let (x, moments) = normalize(norm.norm(&self.config), &h, pool);
        let mut logits = pool.take(tokens.len() * self.config.vocab_size);
        product::forward(&mut logits, &x, self.ends.head(), self.head_shape());
        if let Some(cap) = self.config.logit_softcap {
            loss::bend(&mut logits, cap);
        }
        [h, x, moments].into_iter().for_each(|buffer| pool.give(buffer));
        logits
    }

    /// What is learned, in the order of [`gradient`](Self::gradient).
    pub(crate) fn learned(&mut self, learn: Learn) -> Vec<Param<'_>> {
        let mut out = Vec::new();
        for block in &mut self.blocks {
            block.learned(learn, &mut out);
        }
        let [embedding, head] = self.config.end_modules();
        let EndTensors { embedding: values, positions, norm, head: own, .. } = &mut self.ends;
        let mut push = |name, kind, values| {
            out.push(Param { name, kind, unit: 1.0, range: ANY, values });
        };
        if learn.norms {
            let norm = norm_learned(&self.config.final_norm(), norm);
            norm.for_each(|(name, values)| push(name, Kind::Norm, values));
        }
        if learn.ends {
            push(embedding, Kind::End, values);
            if let Some((name, positions)) = self.config.positions().zip(positions.as_mut()) {
                push(name, Kind::End, positions);
            }
            if let Some(own) = own {
                push(head, Kind::End, own);
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
        let mut h = self.embed(tokens, geometry, pool);
        let mut passes: Vec<(Effective<'_>, Tape)> = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let weights = block.effective(pool);
            let tape = forward_block(&weights, geometry, &mut h, pool);
            passes.push((weights, tape));
        }
        let norm = self.ends.norm.as_stored(self.ends.dtype);
        let norm = norm.norm(&self.config);
        let (x, moments) = normalize(norm, &h, pool);
        let mut logits = pool.take(tokens.len() * self.config.vocab_size);
        product::forward(&mut logits, &x, self.ends.head(), self.head_shape());
        let value = match self.config.logit_softcap {
            None => loss(&mut logits),
            Some(cap) => {
                loss::bend(&mut logits, cap);
                let bent = pool.copy(&logits);
                let value = loss(&mut logits);
                loss::bend_backward(&mut logits, &bent, cap);
                pool.give(bent);
                value
            }
        };

        let mut dx = pool.take(x.len());
        product::grad_input(&mut dx, &logits, self.ends.head(), self.head_shape(), pool);
        let d_head = learn.ends.then(|| {
            let mut dw = pool.take(self.head_shape().len());
            product::grad_weight(&mut dw, &logits, &x, self.head_shape(), pool);
            dw
        });
        pool.give(logits);
        let mut dh = pool.take(h.len());
        let d_norm = norm.backward(&mut dh, &dx, &moments, &h);
        [h, x, moments, dx].into_iter().for_each(|buffer| pool.give(buffer));

        let mut by_block = Vec::new();
        for (weights, tape) in passes.into_iter().rev() {
            by_block.push(backward_block(&weights, geometry, tape, &mut dh, pool));
            weights.give(pool);
        }
        let mut grads = Vec::new();
        for (block, by_values) in self.blocks.iter().zip(by_block.into_iter().rev()) {
            block.gradients(by_values, learn, &mut grads);
        }
        if learn.norms {
            grads.extend(d_norm.into_values());
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
            let window = geometry.window();
            let d_positions = self.ends.embed_backward(&mut d_embedding, &mut dh, tokens, window);
            grads.push(d_embedding);
            grads.extend(d_positions.into_iter().chain(d_head));
        }
        pool.give(dh);
        (value, grads)
    }
}

/// What a norm makes of the rows of `h`, with the moments of each.
fn normalize(norm: Norm<'_>, h: &[f32], pool: &mut Pool) -> (Vec<f32>, Vec<f32>) {
    let mut x = pool.take(h.len());
    let mut moments = pool.take(2 * (h.len() / norm.gain.len()));
    norm.forward(&mut x, &mut moments, h);
    (x, moments)
}
