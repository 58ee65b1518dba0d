//! A transformer block whose parts can be learned.

use std::borrow::Cow;

use fewbit_checkpoint::{Checkpoint, Container, Dtype, Weight};
use fewbit_format::{MatrixShape, Plan, Quantized, Scheme};
use fewbit_model::{ModelConfig, NormTensors, Role, Site};

use crate::{
    Adapter, QatError,
    block::BlockGradients,
    fake::FakeMatrix,
    inputs::{Inputs, SITES, SiteInputs},
    norm::Norm,
    param::{ANY, Kind, Learn, Param},
    pool::Pool,
    tensors::{BlockTensors, FloatTensor, NormValues, StoredNorm, as_stored, norm_tensors},
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
    pub(crate) roles: Vec<Role>,
    pub(crate) modules: Vec<String>,
    shapes: Vec<MatrixShape>,
    norm_names: Vec<NormTensors>,
    pub(crate) layers: Vec<Layer>,
    biases: Vec<Option<Vec<f32>>>,
    norms: Vec<NormValues>,
    /// What norms and biases are rounded to on the way.
    dtype: Dtype,
    /// How the inputs of layers on grids are rounded.
    pub(crate) inputs: Inputs,
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
            shapes: config.roles().map(|role| config.shape(role)).collect(),
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
        let layers = self.modules.iter().zip(&self.shapes).zip(&mut self.layers);
        for ((module, shape), layer) in layers {
            match layer {
                Layer::Fake(matrix) => matrix.learned(learn, out),
                Layer::Adapted(adapter) if learn.adapters => adapter.learned(out),
                Layer::Adapted(_) => {}
                Layer::Float(values) if learn.floats => out.push(Param {
                    name: format!("{module}.weight"),
                    kind: Kind::Weight,
                    unit: 1.0,
                    range: ANY,
                    matrix: Some(*shape),
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
                out.push(Param {
                    name,
                    kind: Kind::Scale,
                    unit,
                    range: ANY,
                    matrix: None,
                    values: step,
                });
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
            matrix: None,
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
pub(crate) fn norm_floats<'a>(
    names: &NormTensors,
    values: &'a NormValues,
) -> impl Iterator<Item = FloatTensor<'a>> + use<'a> {
    let gain = FloatTensor::new(names.gain.clone(), &values.gain);
    let bias = names.bias.clone().zip(values.bias.as_deref());
    [gain].into_iter().chain(bias.map(|(name, bias)| FloatTensor::new(name, bias)))
}

/// The same, to be changed.
pub(crate) fn norm_learned<'a>(
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
