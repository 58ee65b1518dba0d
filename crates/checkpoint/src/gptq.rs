//! GPTQ.
use fewbit_format::{IntScheme, MatrixShape, QuantMatrix, ScaleType};
use serde_json::{Map, Value};

use crate::{CheckpointError, Container, Dtype, PlanInfo, TensorSpec};

/// What a stored zero point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum GptqVersion {
    /// `checkpoint_format` "gptq": zero points are stored less one. Read by every engine.
    #[default]
    V1,
    /// `checkpoint_format` "gptq_v2": zero points are stored as they are.
    V2,
}

/// The GPTQ container, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Gptq {
    /// What stored zero points mean.
    pub version: GptqVersion,
}

/// What a GPTQ configuration says, for reading.
#[derive(Clone, Debug)]
pub struct GptqConfig {}

impl Container for Gptq {
    fn name(&self) -> &'static str {
        match self.version {
            GptqVersion::V1 => "gptq",
            GptqVersion::V2 => "gptq_v2",
        }
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
