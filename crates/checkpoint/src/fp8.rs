//! FP8 with a scale for each block (`quant_method` "fp8": DeepSeek, Qwen; vLLM, transformers).
//!
//! ```text
//! <module>.weight            F8_E4M3  [out, in]
//! <module>.weight_scale_inv  F32      [⌈out/rows⌉, ⌈in/columns⌉]   rows and columns: weight_block_size, 128 and 128
//! <module>.bias                       [out]                       as in the float model, if it has one
//! ```
//!
//! `W = weight · scale_inv` of its block, in spite of the name; blocks at the edges are smaller. Modules that stay float are listed in
//! `modules_to_not_convert`, of which readers look for any as a part of a module's name. F8_E5M2 weights and scales of other float types are read.

use fewbit_format::{
    Float8, Float8Matrix, Float8Scheme, MatrixShape, Quantized, ScaleTile, ScaleType, Scheme,
};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, Container, Dtype, PlanInfo, Refusal, TensorSource, TensorSpec,
    config::{Keys, block_size},
    container::{HEAD, check_names, check_same, le_bytes, refuse},
    parts::Parts,
};

/// The container of block-wise FP8, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Fp8;

const NAME: &str = "fp8";

/// The FP8 scheme of a container that carries no other.
fn block_scheme(module: &str, scheme: &Scheme) -> Result<Float8Scheme, CheckpointError> {
    match *scheme {
        Scheme::Float8(scheme) if scheme.element == Float8::E4M3 => Ok(scheme),
        ref other => {
            let (scheme, supported) = (other.name(), Float8::E4M3.name());
            refuse(NAME, module, Refusal::Scheme { scheme, supported })
        }
    }
}

impl Container for Fp8 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scale_type(&self, _model: Dtype) -> ScaleType {
        ScaleType::F32
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let Float8Scheme { tile, scale_type, .. } = block_scheme(module, scheme)?;
        let refuse = |refusal| refuse(NAME, module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if scale_type != ScaleType::F32 {
            return refuse(Refusal::ScaleType { scale_type, supported: "f32" });
        }
        match tile {
            ScaleTile::Block { .. } => Ok(()),
            other => {
                let (granularity, remedy) = (other.name(), "one per block of 128x128");
                refuse(Refusal::Granularity { granularity, remedy })
            }
        }
    }

    fn check_plan(&self, plan: &PlanInfo<'_>) -> Result<(), CheckpointError> {
        check_same(NAME, plan, |m| {
            self.check(&m.module, m.shape, &m.scheme, m.group_map)?;
            Ok(block_scheme(&m.module, &m.scheme)?.tile)
        })?;
        check_names(NAME, plan, |float, quantized| quantized.contains(float))
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Vec<TensorSpec> {
        let Scheme::Float8(scheme) = scheme else { return Vec::new() };
        let MatrixShape { out_features, in_features } = shape;
        let spec = |part, dtype, shape: [usize; 2]| {
            TensorSpec::new(format!("{module}.{part}"), dtype, shape)
        };
        vec![
            spec("weight", Dtype::F8_E4M3, [out_features, in_features]),
            spec("weight_scale_inv", Dtype::F32, scheme.tile.count(shape)),
        ]
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        self.check(module, shape, &scheme, false)?;
        let Quantized::Float8(matrix) = matrix else { unreachable!("refused above") };
        let bytes =
            [matrix.codes().to_vec(), le_bytes(matrix.scales().iter().copied(), f32::to_le_bytes)];
        Ok(self.tensors(module, shape, &scheme, false).into_iter().zip(bytes).collect())
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let block = plan.quantized().find_map(|m| match m.scheme {
            Scheme::Float8(Float8Scheme {
                tile: ScaleTile::Block { out_features, in_features },
                ..
            }) => Some([out_features, in_features]),
            _ => None,
        })?;
        let mut float: Vec<&str> = plan.float().map(|m| m.module.as_str()).collect();
        if !float.contains(&HEAD) {
            float.push(HEAD);
        }
        let config = json!({
            "quant_method": NAME,
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": block,
            "modules_to_not_convert": float,
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Some(config)
    }
}

/// What a configuration of block-wise FP8 says, for reading.
#[derive(Clone, Copy, Debug)]
pub struct Fp8Config {
    tile: ScaleTile,
}

impl Fp8Config {
    pub(crate) fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        let [out_features, in_features] = block_size(keys, "weight_block_size")?;
        Ok(Self { tile: ScaleTile::Block { out_features, in_features } })
    }

    pub(crate) fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<Float8Matrix, CheckpointError> {
        let parts = Parts { source, module };
        let [out_features, in_features] = parts.matrix("weight")?;
        if out_features == 0 || in_features == 0 {
            return refuse(NAME, module, Refusal::Empty { out_features, in_features });
        }
        let shape = MatrixShape { out_features, in_features };
        let (element, codes) = parts.float8("weight", shape)?;
        parts.check_shape("weight_scale_inv", &self.tile.count(shape))?;
        let (scales, scale_type) = parts.scales("weight_scale_inv")?;
        let scheme = Float8Scheme { element, tile: self.tile, scale_type };
        Float8Matrix::new(shape, scheme, codes, scales).map_err(|e| parts.format(e))
    }
}
