//! Writing a model as a GGUF file, tensor by tensor, under the names of the Hugging Face model.

use std::path::{Path, PathBuf};

use crate::{CheckpointError, gguf::GgufWriter};

use super::GgufLayout;

/// Writes the tensors of a Hugging Face model to a GGUF file.
///
/// As [`GgufWriter`]: all is announced by the layout, tensors come in any order, and the output has its name only when all is there.
#[derive(Debug)]
pub struct GgufModelWriter {
    layout: GgufLayout,
    writer: GgufWriter,
}

impl GgufModelWriter {
    /// Lays out the file, or several of at most `split_bytes`. Tensors that the model does not have are written at once.
    ///
    /// # Errors
    /// As [`GgufWriter::create`].
    pub fn create(
        out: &Path,
        layout: GgufLayout,
        split_bytes: Option<u64>,
    ) -> Result<Self, CheckpointError> {
        let specs = layout.specs().to_vec();
        let mut writer = GgufWriter::create(out, layout.metadata(), specs, split_bytes)?;
        for (name, bytes) in layout.extra() {
            writer.write(name, bytes)?;
        }
        Ok(Self { layout, writer })
    }

    /// What is being written.
    pub fn layout(&self) -> &GgufLayout {
        &self.layout
    }

    /// Writes a tensor of the model, under its name there; `bytes` as [`GgufLayout::relay`] takes them.
    ///
    /// # Errors
    /// As [`GgufLayout::relay`] and [`GgufWriter::write`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let bytes = self.layout.relay(name, bytes)?;
        let gguf = self.layout.gguf_name(name).expect("a tensor that could be re-laid has a name");
        self.writer.write(gguf, &bytes)
    }

    /// Writes a piece of a tensor of the model, from byte `offset` of it on, as [`GgufLayout::relay_part`] takes them; one piece after another.
    ///
    /// # Errors
    /// As [`GgufLayout::relay_part`] and [`GgufWriter::write_part`].
    pub fn write_part(
        &mut self,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        let (begin, bytes) = self.layout.relay_part(name, offset, bytes)?;
        let gguf = self.layout.gguf_name(name).expect("a tensor that could be re-laid has a name");
        self.writer.write_part(gguf, begin, &bytes)
    }

    /// Makes what was written durable; returns the temporary file, or the first of several.
    ///
    /// # Errors
    /// As [`GgufWriter::complete`].
    pub fn complete(&mut self) -> Result<&Path, CheckpointError> {
        self.writer.complete()
    }

    /// Gives the files their names, which are returned.
    ///
    /// # Errors
    /// As [`GgufWriter::finish`].
    pub fn finish(self) -> Result<Vec<PathBuf>, CheckpointError> {
        self.writer.finish()
    }
}
