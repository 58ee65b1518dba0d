//! A whole model whose parts can be learned.

use fewbit_checkpoint::{Checkpoint, Container, InputRounding};
use fewbit_format::{MatrixShape, Plan};
use fewbit_model::ModelConfig;

use crate::{
    Adapter, AdapterSpec, Layer, QatError, Start, TrainBlock, Windows,
    block::{Geometry, Tape, backward_block, forward_block},
    fake::FakeMatrix,
    inputs::{Inputs, SITES, SiteInputs},
    loss,
    norm::Norm,
    param::{ANY, Kind, Learn, Param},
    pool::Pool,
    product,
    tensors::{BlockTensors, EndTensors, FloatTensor},
    train_block::{Effective, norm_floats, norm_learned},
};

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

    /// Puts an adapter on each matrix that is on a grid; its codes then stay as they are.
    ///
    /// # Errors
    /// [`QatError::Setting`] for rank 0, and if a matrix holds NaN.
    pub fn adapt(&mut self, spec: AdapterSpec) -> Result<(), QatError> {
        if spec.rank == 0 {
            let setting = "the rank of adapters";
            return Err(QatError::Setting { setting, value: 0.0, expected: "at least 1" });
        }
        let layers = self.blocks.iter_mut().flat_map(|block| &mut block.layers);
        for (number, layer) in (0..).zip(layers) {
            if let Layer::Fake(matrix) = layer {
                let base = matrix.quantized()?;
                *layer = Layer::Adapted(Adapter::new(matrix.module(), base, spec, number));
            }
        }
        Ok(())
    }

    /// The adapters, first to last.
    pub fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.blocks.iter().flat_map(|block| &block.layers).filter_map(|layer| match layer {
            Layer::Adapted(adapter) => Some(adapter),
            _ => None,
        })
    }

    /// The same model with adapters added to the values of their matrices, which become floats.
    #[must_use]
    pub fn merged(&self) -> Self {
        let mut merged = self.clone();
        let mut pool = Pool::default();
        for layer in merged.blocks.iter_mut().flat_map(|block| &mut block.layers) {
            if let Layer::Adapted(adapter) = layer {
                let mut values = vec![0.0; adapter.base().shape().len()];
                adapter.merge_into(&mut values, &mut pool);
                *layer = Layer::Float(values);
            }
        }
        merged
    }

    /// Rounds the inputs of layers on grids to 8 bits from now on, in training and in [`logits`](Self::logits). Fixed steps begin with the largest input that
    /// some windows of `text` have; [`Learn::scales`] learns them.
    ///
    /// # Errors
    /// As [`Geometry::new`].
    pub fn round_inputs(&mut self, to: InputRounding, text: &Windows) -> Result<(), QatError> {
        /// Windows of which the largest inputs are taken.
        const WINDOWS: usize = 16;
        match to {
            InputRounding::Float => self.set_inputs(|_| Inputs::Float),
            InputRounding::Int8PerToken => self.set_inputs(|_| Inputs::PerToken),
            InputRounding::Int8Static => {
                self.set_inputs(|_| Inputs::Float);
                let geometry = Geometry::new(&self.config, text.window())?;
                let (tokens, _) = text.pairs(text.spread(WINDOWS));
                let mut pool = Pool::default();
                let mut h = self.embed(&tokens, &geometry, &mut pool);
                let mut largest = Vec::new();
                for block in &self.blocks {
                    let weights = block.effective(&mut pool);
                    let tape = forward_block(&weights, &geometry, &mut h, &mut pool);
                    largest.push(tape.largest_inputs());
                    tape.give(&mut pool);
                    weights.give(&mut pool);
                }
                // A site of zeros takes any step.
                let step = |most: f32| if most > 0.0 { most / 127.0 } else { 1.0 };
                self.set_inputs(|block| Inputs::Static(largest[block].map(step)));
            }
        }
        Ok(())
    }

    fn set_inputs(&mut self, inputs: impl Fn(usize) -> Inputs) {
        for (i, block) in self.blocks.iter_mut().enumerate() {
            block.inputs = inputs(i);
        }
    }

    /// The step of each matrix's inputs, where they have fixed ones: module name and step.
    pub fn input_steps(&self) -> impl Iterator<Item = (&str, f32)> {
        self.blocks.iter().flat_map(|block| {
            let layers = block.roles.iter().zip(&block.modules).zip(&block.layers);
            layers.filter_map(|((role, module), layer)| {
                let site = SITES.iter().position(|&site| site == role.site())?;
                match (block.inputs.of_site(site), layer) {
                    (SiteInputs::Static(step), Layer::Fake(_)) => Some((&module[..], step)),
                    _ => None,
                }
            })
        })
    }

    /// How inputs are rounded, for fingerprints.
    pub(crate) fn inputs_text(&self) -> String {
        match self.blocks.first().map(|block| &block.inputs) {
            None | Some(Inputs::Float) => "floats".into(),
            Some(Inputs::PerToken) => "8 bits, a step for each token".into(),
            Some(Inputs::Static(_)) => "8 bits, a step for each layer".into(),
        }
    }

    /// Root mean square of the embedding's values.
    pub(crate) fn embedding_size(&self) -> f32 {
        let squares: f64 = self.ends.embedding.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        (squares / self.ends.embedding.len().max(1) as f64).sqrt() as f32
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
        let head = self.ends.head();
        product::forward(&mut logits, &x, &head, self.head_shape());
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
            out.push(Param { name, kind, unit: 1.0, range: ANY, matrix: None, values });
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
        let head = self.ends.head();
        product::forward(&mut logits, &x, &head, self.head_shape());
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
        product::grad_input(&mut dx, &logits, &head, self.head_shape(), pool);
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
            block.gradients(by_values, learn, pool, &mut grads);
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
