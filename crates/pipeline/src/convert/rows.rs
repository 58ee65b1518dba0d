//! Matrices piece by piece: where rows lie one after another in both files, no matrix is ever in memory as a whole.
//!
//! ```text
//! file ──read_rows_into──► rows of a task ──decode──► f32 ──encode──► rows of a task ┐
//!                          (few enough for the cache, one task per thread)           ├► piece ──write_part──► file
//!                                                                     of each task   ┘   (two: one fills while one is written)
//! ```

use std::{mem, ops::Range};

use fewbit_checkpoint::{Checkpoint, Dtype, ModelWriter, TensorInfo, gguf_model::GgufModel};
use fewbit_format::{BlockType, FormatError, MatrixShape, Scheme};
use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::PipelineError;

/// Weights of a task: their floats fit the second cache.
const TASK: usize = 1 << 16;
/// Weights of a piece, which is written at once.
const PIECE: usize = 1 << 22;

/// A tensor whose rows lie one after another.
#[derive(Clone, Debug)]
pub(super) struct Rows<'a> {
    model: &'a Checkpoint,
    tensor: String,
    n_rows: usize,
    /// Elements of a row.
    length: usize,
    /// Bytes of a row.
    bytes: usize,
    elements: Elements,
}

/// What a row is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Elements {
    F32,
    F16,
    BF16,
    Blocks(BlockType),
    /// Whatever it is, it is only copied.
    Other,
}

/// What becomes of each row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing.
    Copy,
    /// Its values, as f32.
    Widen,
    /// Blocks of the nearest values.
    Round(BlockType),
}

impl<'a> Rows<'a> {
    /// The weight of a module, if it lies in rows: floats, or the blocks of a GGUF file.
    pub(super) fn of_module(model: &'a Checkpoint, module: &str) -> Option<Self> {
        if let Some(gguf) = model.gguf() {
            let tensor = format!("{module}{}", GgufModel::BLOCKS);
            if let (Some(source), Some(info)) = (gguf.source(&tensor), model.tensor(&tensor)) {
                let length = source.matrix_shape().in_features;
                let elements = Elements::Blocks(source.kind.block()?);
                return Some(Self { length, elements, ..Self::of_tensor(model, info) });
            }
        }
        if model.container().is_some_and(|container| container.holds(model, module)) {
            return None;
        }
        let rows = Self::of_tensor(model, model.tensor(&format!("{module}.weight"))?);
        (rows.elements != Elements::Other).then_some(rows)
    }

    /// A tensor as it is.
    pub(super) fn of_tensor(model: &'a Checkpoint, info: &TensorInfo) -> Self {
        let n_rows = info.shape.first().copied().unwrap_or(1);
        Self {
            model,
            tensor: info.name.clone(),
            n_rows,
            length: info.shape.iter().skip(1).product(),
            bytes: info.bytes as usize / n_rows.max(1),
            elements: match info.dtype {
                Dtype::F32 => Elements::F32,
                Dtype::F16 => Elements::F16,
                Dtype::BF16 => Elements::BF16,
                _ => Elements::Other,
            },
        }
    }

    /// Its grid.
    pub(super) fn scheme(&self) -> Scheme {
        match self.elements {
            Elements::Blocks(block_type) => Scheme::Block(block_type),
            _ => Scheme::Float,
        }
    }

    /// Its shape.
    pub(super) fn shape(&self) -> MatrixShape {
        MatrixShape { out_features: self.n_rows, in_features: self.length }
    }

    /// Writes all rows to a tensor of the output and returns a hash of what was written; `None` if the output leaves the tensor out.
    ///
    /// # Errors
    /// If a file cannot be read or written, or a value has no place in the output.
    pub(super) fn write(
        &self,
        step: Step,
        out: &str,
        writer: &mut dyn ModelWriter,
    ) -> Result<Option<u128>, PipelineError> {
        let Some(unit) = writer.row_unit(out) else { return Ok(None) };
        let row_bytes = match step {
            Step::Copy => self.bytes,
            Step::Widen => self.length * size_of::<f32>(),
            Step::Round(block_type) => {
                block_type.row_bytes(self.length).map_err(|source| self.error(source))?
            }
        };
        let mut hash = Xxh3::new();
        if self.n_rows * row_bytes == 0 {
            writer.write(out, &[])?;
            return Ok(Some(hash.digest128()));
        }
        let (mut ready, mut next, mut offset) = (Vec::new(), Vec::new(), 0);
        for piece in self.pieces(unit) {
            // One piece is computed while the one before it is written.
            let (hashes, written) = rayon::join(
                || self.piece(step, piece, unit, row_bytes, &mut next),
                || match ready.is_empty() {
                    true => Ok(()),
                    false => writer.write_part(out, offset, &ready),
                },
            );
            written?;
            hashes?.into_iter().for_each(|task| hash.update(&task.to_le_bytes()));
            offset += ready.len() as u64;
            mem::swap(&mut ready, &mut next);
        }
        writer.write_part(out, offset, &ready)?;
        Ok(Some(hash.digest128()))
    }

    /// The hash that [`write`](Self::write) gives to these rows, for reading them back; `unit` is that of the writer.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn hash(&self, unit: usize) -> Result<u128, PipelineError> {
        let mut hash = Xxh3::new();
        for piece in self.pieces(unit) {
            let tasks: Vec<Range<usize>> = chunks(piece, self.task_rows(unit)).collect();
            let hashes = (tasks.into_par_iter())
                .map_init(Vec::new, |bytes, rows| {
                    self.model.read_rows_into(&self.tensor, rows, bytes)?;
                    Ok(xxh3_128(bytes))
                })
                .collect::<Result<Vec<u128>, PipelineError>>()?;
            hashes.into_iter().for_each(|task| hash.update(&task.to_le_bytes()));
        }
        Ok(hash.digest128())
    }

    /// Computes the rows of a piece; returns the hash of each task.
    fn piece(
        &self,
        step: Step,
        piece: Range<usize>,
        unit: usize,
        row_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<Vec<u128>, PipelineError> {
        let task_rows = self.task_rows(unit);
        out.resize(piece.len() * row_bytes, 0);
        let tasks: Vec<Range<usize>> = chunks(piece, task_rows).collect();
        (tasks.into_par_iter())
            .zip(out.par_chunks_mut((task_rows * row_bytes).max(1)))
            .map_init(
                || (Vec::new(), Vec::new()),
                |(bytes, values), (rows, out)| {
                    values.resize(rows.len() * self.length, 0.0);
                    self.model.read_rows_into(&self.tensor, rows, bytes)?;
                    self.convert(step, bytes, values, out).map_err(|source| self.error(source))?;
                    Ok(xxh3_128(out))
                },
            )
            .collect()
    }

    /// `bytes` and `out` are whole rows before and after, `values` is room for as many floats.
    fn convert(
        &self,
        step: Step,
        bytes: &[u8],
        values: &mut [f32],
        out: &mut [u8],
    ) -> Result<(), FormatError> {
        if step == Step::Copy {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        vectorize(
            Level::detect(),
            #[inline(always)]
            || {
                self.elements.decode(bytes, values)?;
                if let Step::Round(block_type) = step {
                    return block_type.encode_rows(values, self.length, None, out);
                }
                for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                    *out = value.to_le_bytes();
                }
                Ok(())
            },
        )
    }

    fn error(&self, source: FormatError) -> PipelineError {
        PipelineError::Format { module: self.tensor.clone(), source }
    }

    /// Rows of a task, whole units of them.
    fn task_rows(&self, unit: usize) -> usize {
        (TASK / self.length.max(1)).max(1).next_multiple_of(unit.max(1))
    }

    fn pieces(&self, unit: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let task_rows = self.task_rows(unit);
        let tasks = (PIECE / (task_rows * self.length).max(1)).max(1);
        chunks(0..self.n_rows, tasks * task_rows)
    }
}

impl Elements {
    #[inline(always)]
    fn decode(self, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        match self {
            Self::F32 => {
                for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(bytes);
                }
            }
            Self::F16 => {
                for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = widen_f16(u16::from_le_bytes(bytes));
                }
            }
            Self::BF16 => {
                for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
                }
            }
            Self::Blocks(block_type) => block_type.decode(bytes, values)?,
            Self::Other => unreachable!("what is not numbers is only copied"),
        }
        Ok(())
    }
}

/// The value of an f16, by steps that the compiler can vectorize.
#[inline(always)]
fn widen_f16(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    // With the exponent bias of f32 the number is 2^112 times smaller; the product is exact, subnormals included.
    let value = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    let special = if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// A range in steps of `size`.
fn chunks(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size.max(1)).map(move |start| start..end.min(start + size))
}

#[cfg(test)]
mod tests {
    use fewbit_format::f16;

    use super::*;

    #[test]
    fn halves_widen_as_the_half_crate_does_it() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan());
        }
    }

    #[test]
    fn the_last_chunk_is_shorter() {
        assert!(chunks(3..10, 3).eq([3..6, 6..9, 9..10]));
        assert_eq!(chunks(3..3, 3).count(), 0);
    }
}
