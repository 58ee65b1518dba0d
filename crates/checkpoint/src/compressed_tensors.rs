//! compressed-tensors.
use fewbit_format::{IntScheme, MatrixShape, QuantMatrix, ScaleType};
use serde_json::{Map, Value};

use crate::{CheckpointError, Container, Dtype, PlanInfo, TensorSpec};

/// The compressed-tensors container in its `pack-quantized` format, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct CompressedTensors;

/// What a compressed-tensors configuration says, for reading.
#[derive(Clone, Debug)]
pub struct CompressedTensorsConfig {}

impl Container for CompressedTensors {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn scale_type(&self, _model: Dtype) -> ScaleType {
        ScaleType::F16
    }
    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &IntScheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        unimplemented!()
    }
    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &IntScheme,
        has_group_map: bool,
    ) -> Vec<TensorSpec> {
        unimplemented!()
    }
    fn encode(
        &self,
        module: &str,
        matrix: &QuantMatrix,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        unimplemented!()
    }
    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        unimplemented!()
    }
}
