//! The tensors of one quantized module, read with their types and shapes checked.

use std::borrow::Cow;

use fewbit_format::{Float8, FormatError, MatrixShape, ScaleType, bf16, f16};
use safetensors::Dtype;

use crate::{CheckpointError, TensorInfo, TensorSource};

/// A module of a source.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) module: &'a str,
}

impl<'a> Parts<'a> {
    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    pub(crate) fn find(&self, part: &str) -> Option<&'a TensorInfo> {
        self.source.tensor(&self.name(part))
    }

    pub(crate) fn info(&self, part: &str) -> Result<&'a TensorInfo, CheckpointError> {
        self.find(part).ok_or_else(|| CheckpointError::MissingPart {
            module: self.module.to_owned(),
            tensor: self.name(part),
        })
    }

    /// The two dimensions of a matrix.
    pub(crate) fn matrix(&self, part: &str) -> Result<[usize; 2], CheckpointError> {
        let info = self.info(part)?;
        <[usize; 2]>::try_from(&info.shape[..]).map_err(|_| CheckpointError::Rank {
            tensor: info.name.clone(),
            got: info.shape.len(),
            expected: 2,
        })
    }

    pub(crate) fn check_shape(&self, part: &str, shape: &[usize]) -> Result<(), CheckpointError> {
        let info = self.info(part)?;
        if info.shape == shape {
            return Ok(());
        }
        let (tensor, got) = (info.name.clone(), info.shape.clone());
        Err(CheckpointError::Shape { tensor, got, expected: shape.to_vec() })
    }

    fn dtype(&self, info: &TensorInfo, expected: &'static str) -> CheckpointError {
        CheckpointError::Dtype { tensor: info.name.clone(), got: info.dtype, expected }
    }

    /// The bytes of a tensor of one of these types, of this shape.
    pub(crate) fn typed(
        &self,
        part: &str,
        dtypes: &[Dtype],
        expected: &'static str,
        shape: &[usize],
    ) -> Result<Cow<'a, [u8]>, CheckpointError> {
        let info = self.info(part)?;
        if !dtypes.contains(&info.dtype) {
            return Err(self.dtype(info, expected));
        }
        self.check_shape(part, shape)?;
        let bytes = self.source.read(&info.name)?;
        if bytes.len() as u64 != info.bytes {
            return Err(self.length(info, bytes.len()));
        }
        Ok(bytes)
    }

    /// Words of 32 bits, of this shape.
    pub(crate) fn words(&self, part: &str, shape: [usize; 2]) -> Result<Vec<u32>, CheckpointError> {
        let bytes = self.typed(part, &[Dtype::I32, Dtype::U32], "I32", &shape)?;
        Ok(bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }

    /// Signed bytes, of this shape.
    pub(crate) fn bytes(&self, part: &str, shape: &[usize]) -> Result<Vec<i8>, CheckpointError> {
        let bytes = self.typed(part, &[Dtype::I8], "I8", shape)?;
        Ok(bytes.iter().map(|&byte| byte.cast_signed()).collect())
    }

    /// Scales and the type they are stored in; any shape.
    pub(crate) fn scales(&self, part: &str) -> Result<(Vec<f32>, ScaleType), CheckpointError> {
        let info = self.info(part)?;
        let bytes = self.source.read(&info.name)?;
        let halves = || bytes.as_chunks().0.iter();
        Ok(match info.dtype {
            Dtype::F16 => {
                (halves().map(|&b| f16::from_le_bytes(b).to_f32()).collect(), ScaleType::F16)
            }
            Dtype::BF16 => {
                (halves().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(), ScaleType::BF16)
            }
            Dtype::F32 => {
                let floats = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
                (floats.collect(), ScaleType::F32)
            }
            _ => return Err(self.dtype(info, "F16, BF16 or F32")),
        })
    }

    /// Values of an F32 tensor of this shape.
    pub(crate) fn floats(&self, part: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.typed(part, &[Dtype::F32], "F32", shape)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    /// 8-bit floats of this shape, and which.
    pub(crate) fn float8(
        &self,
        part: &str,
        shape: MatrixShape,
    ) -> Result<(Float8, Vec<u8>), CheckpointError> {
        let dtypes = [Dtype::F8_E4M3, Dtype::F8_E5M2];
        let shape = [shape.out_features, shape.in_features];
        let codes = self.typed(part, &dtypes, "F8_E4M3 or F8_E5M2", &shape)?;
        let element = match self.info(part)?.dtype {
            Dtype::F8_E5M2 => Float8::E5M2,
            _ => Float8::E4M3,
        };
        Ok((element, codes.into_owned()))
    }

    /// Integers of 32 or 64 bits, of one dimension.
    pub(crate) fn integers(&self, part: &str) -> Result<Vec<i64>, CheckpointError> {
        let info = self.info(part)?;
        if info.shape.len() != 1 {
            let (tensor, got) = (info.name.clone(), info.shape.len());
            return Err(CheckpointError::Rank { tensor, got, expected: 1 });
        }
        let bytes = self.source.read(&info.name)?;
        match info.dtype {
            Dtype::I32 => {
                Ok(bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect())
            }
            Dtype::I64 => Ok(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            _ => Err(self.dtype(info, "I32 or I64")),
        }
    }

    /// The group of each column as a file stores it; `None` if it is `column / group_size`.
    pub(crate) fn group_map(
        &self,
        stored: Vec<i64>,
        group_size: usize,
        n_groups: usize,
    ) -> Result<Option<Vec<u32>>, CheckpointError> {
        if stored.iter().enumerate().all(|(column, &g)| g == (column / group_size) as i64) {
            return Ok(None);
        }
        let group = |(column, g): (usize, i64)| {
            u32::try_from(g).ok().filter(|&g| (g as usize) < n_groups).ok_or_else(|| {
                let group = usize::try_from(g).unwrap_or(usize::MAX);
                self.format(FormatError::GroupRange { column, group, n_groups })
            })
        };
        stored.into_iter().enumerate().map(group).collect::<Result<_, _>>().map(Some)
    }

    /// Refuses zero points off the middle, `(out_features, n_groups)`, where the configuration says symmetric.
    pub(crate) fn check_symmetric(
        &self,
        zeros: &[u8],
        n_groups: usize,
        middle: u8,
    ) -> Result<(), CheckpointError> {
        match zeros.iter().position(|&zero| zero != middle) {
            None => Ok(()),
            Some(i) => Err(CheckpointError::SymmetricZeroPoint {
                module: self.module.to_owned(),
                row: i / n_groups,
                group: i % n_groups,
                found: zeros[i],
                expected: middle,
            }),
        }
    }

    pub(crate) fn format(&self, source: FormatError) -> CheckpointError {
        CheckpointError::Format { module: self.module.to_owned(), source }
    }

    fn length(&self, info: &TensorInfo, got: usize) -> CheckpointError {
        let (tensor, expected) = (info.name.clone(), info.bytes);
        CheckpointError::TensorLength { tensor, got: got as u64, expected }
    }
}
