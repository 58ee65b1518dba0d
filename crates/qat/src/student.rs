//! A model whose parts can be learned.

use std::borrow::Cow;

use fewbit_checkpoint::{Checkpoint, Container, Dtype, InputRounding, Weight};
use fewbit_format::{MatrixShape, Plan, Quantized, Scheme};
use fewbit_model::{ModelConfig, NormTensors, Role, Site};

use crate::{
    Adapter, AdapterSpec, QatError, Windows,
    block::{BlockGradients, Geometry, Tape, backward_block, forward_block},
    fake::FakeMatrix,
    inputs::{Inputs, SITES, SiteInputs},
    loss,
    norm::Norm,
    param::{ANY, Kind, Learn, Param},
    pool::Pool,
    product,
    tensors::{
        BlockTensors, EndTensors, FloatTensor, NormValues, StoredNorm, as_stored, norm_tensors,
    },
};

/// A linear layer's weight.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// Floats as they are.
    Float(Vec<f32>),
    /// Rounded on the way.
    Fake(FakeMatrix),
    /// Codes that stay as they are, and an adapter on top of them.
    Adapted(Adapter),
}

/// A transformer block whose parts can be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainBlock {
    /// Which block of the model this is.
    layer: usize,
    roles: Vec<Role>,
    modules: Vec<String>,
    norm_names: Vec<NormTensors>,
    layers: Vec<Layer>,
    biases: Vec<Option<Vec<f32>>>,
    norms: Vec<NormValues>,
    /// What norms and biases are rounded to on the way.
    dtype: Dtype,
    /// How the inputs of layers on grids are rounded.
    inputs: Inputs,
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
            roles: config.roles().collect(),
            modules: config.roles().map(|role| config.module(layer, role)).collect(),
            norm_names: norm_tensors(config, layer),
            layers: linears.into_iter().map(Layer::Float).collect(),
            biases,
            norms,
            dtype,
            inputs: Inputs::Float,
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
            _ => None,
        })
    }

    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut FakeMatrix> {
        self.layers.iter_mut().filter_map(|layer| match layer {
            Layer::Fake(matrix) => Some(matrix),
            _ => None,
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
            _ => None,
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
            Layer::Adapted(adapter) => {
                let mut values = pool.take(adapter.base().shape().len());
                adapter.merge_into(&mut values, pool);
                Cow::Owned(values)
            }
        });
        let stored = |values| as_stored(values, self.dtype);
        Effective {
            layer: self.layer,
            linears: linears.collect(),
            biases: self.biases.iter().map(|bias| bias.as_deref().map(stored)).collect(),
            norms: self.norms.iter().map(|norm| norm.as_stored(self.dtype)).collect(),
            inputs: std::array::from_fn(|site| match self.rounds_inputs(SITES[site]) {
                true => self.inputs.of_site(site),
                false => SiteInputs::Float,
            }),
        }
    }

    /// Whether layers of a site are on grids.
    fn rounds_inputs(&self, site: Site) -> bool {
        let layers = self.roles.iter().zip(&self.layers);
        let mut layers = layers.filter(|(role, _)| role.site() == site);
        layers.any(|(_, layer)| matches!(layer, Layer::Fake(_)))
    }

    /// What is learned, in the order of [`gradients`](Self::gradients).
    pub(crate) fn learned<'a>(&'a mut self, learn: Learn, out: &mut Vec<Param<'a>>) {
        for (module, layer) in self.modules.iter().zip(&mut self.layers) {
            match layer {
                Layer::Fake(matrix) => matrix.learned(learn, out),
                Layer::Adapted(adapter) if learn.adapters => adapter.learned(out),
                Layer::Adapted(_) => {}
                Layer::Float(values) if learn.floats => out.push(Param {
                    name: format!("{module}.weight"),
                    kind: Kind::Weight,
                    unit: 1.0,
                    range: ANY,
                    values,
                }),
                Layer::Float(_) => {}
            }
        }
        if let Inputs::Static(steps) = &mut self.inputs
            && learn.scales
        {
            for (site, step) in SITES.iter().zip(steps.chunks_mut(1)) {
                let name = format!("block {} {site:?}.step", self.layer);
                let unit = step[0].abs();
                out.push(Param { name, kind: Kind::Scale, unit, range: ANY, values: step });
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
    pub(crate) fn gradients(
        &self,
        gradients: BlockGradients,
        learn: Learn,
        pool: &mut Pool,
        out: &mut Vec<Vec<f32>>,
    ) {
        let BlockGradients { values, inputs } = gradients;
        let BlockTensors { linears, biases, norms, .. } = values;
        for (layer, d) in self.layers.iter().zip(linears) {
            match layer {
                Layer::Fake(matrix) => matrix.backward(d, learn, out),
                Layer::Adapted(adapter) if learn.adapters => adapter.backward(d, pool, out),
                Layer::Adapted(_) => {}
                Layer::Float(_) if learn.floats => out.push(d),
                Layer::Float(_) => {}
            }
        }
        if matches!(self.inputs, Inputs::Static(_)) && learn.scales {
            out.extend(inputs.map(|d| vec![d]));
        }
        if learn.norms {
            out.extend(biases.into_iter().flatten());
            out.extend(norms.into_iter().flat_map(NormValues::into_values));
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
    /// How the inputs of each of [`SITES`] are rounded.
    pub(crate) inputs: [SiteInputs; 4],
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
