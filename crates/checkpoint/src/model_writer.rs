//! Where a quantized model goes, tensor by tensor: a folder, or a single file of another kind.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    CheckpointError, FolderWriter, ModelOutput,
    config::CONFIG_KEYS,
    gguf_model::{GgufModel, TokenizerFiles},
};

/// Writes the tensors of a model, in any order, under a temporary name until all is there.
///
/// Tensors have the names that [`Container::tensors`](crate::Container::tensors) gives them, or that they have in the original.
pub trait ModelWriter: Send {
    /// Writes a tensor.
    ///
    /// # Errors
    /// If it was not announced, is written twice, has another length, or the disk refuses.
    fn write(&mut self, tensor: &str, bytes: &[u8]) -> Result<(), CheckpointError>;

    /// Of how many rows a piece for [`write_part`](Self::write_part) must be a multiple, with the tensor's first dimension counted as its rows. `None` if
    /// the output has no such tensor, and what is written of it is dropped.
    fn row_unit(&self, tensor: &str) -> Option<usize>;

    /// Writes a piece of a tensor, from byte `offset` of it on: whole [units](Self::row_unit) of rows, one piece after another.
    ///
    /// # Errors
    /// As [`write`](Self::write), and if a piece does not begin where the last one ended, or is no whole number of units.
    fn write_part(
        &mut self,
        tensor: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError>;

    /// Makes everything durable under a temporary name, at which the model can be opened.
    ///
    /// # Errors
    /// If a tensor is missing, or the disk refuses.
    fn complete(&mut self) -> Result<&Path, CheckpointError>;

    /// Gives the output its name.
    ///
    /// # Errors
    /// If something has come into its place meanwhile.
    fn finish(self: Box<Self>) -> Result<(), CheckpointError>;
}

/// A folder as Hugging Face tools read it: weights, configuration, and the tokenizer and other files of the original.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    writer: FolderWriter,
}

impl ModelFolder {
    /// `changes` are laid over the configuration, such as what it says of the container; `files` is what further files hold.
    pub(crate) fn create(
        output: &ModelOutput<'_>,
        changes: Map<String, Value>,
        files: Vec<(&'static str, Value)>,
    ) -> Result<Self, CheckpointError> {
        let ModelOutput { out, original, specs, part_bytes, .. } = *output;
        let mut writer = FolderWriter::create(out, specs.to_vec(), part_bytes)?;
        let mut config = original.config().clone();
        for key in CONFIG_KEYS {
            // Of the original, if that was quantized.
            config.remove(key);
        }
        config.extend(changes);
        for (name, value) in files {
            writer.write_json(name, &value)?;
        }
        writer.write_json("config.json", &Value::Object(config))?;
        match original.gguf().map(GgufModel::tokenizer).transpose()? {
            None => {
                writer.copy_companions(original.folder())?;
            }
            Some(None) => {}
            Some(Some((files, _))) => {
                let TokenizerFiles { tokenizer, config, chat_template, .. } = files;
                let config = match chat_template {
                    Some(template) => {
                        let mut config = config;
                        config.insert("chat_template".into(), Value::String(template));
                        config
                    }
                    None => config,
                };
                writer.write_json("tokenizer.json", &Value::Object(tokenizer))?;
                writer.write_json("tokenizer_config.json", &Value::Object(config))?;
            }
        }
        Ok(Self { writer })
    }
}

/// Begins a folder without quantized modules. `changes` are laid over the configuration.
///
/// # Errors
/// If the output exists, or the disk refuses.
pub fn float_folder(
    output: &ModelOutput<'_>,
    changes: Map<String, Value>,
) -> Result<Box<dyn ModelWriter>, CheckpointError> {
    Ok(Box::new(ModelFolder::create(output, changes, Vec::new())?))
}

impl ModelWriter for ModelFolder {
    fn write(&mut self, tensor: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.writer.write(tensor, bytes)
    }

    fn row_unit(&self, _tensor: &str) -> Option<usize> {
        Some(1)
    }

    fn write_part(
        &mut self,
        tensor: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        self.writer.write_part(tensor, offset, bytes)
    }

    fn complete(&mut self) -> Result<&Path, CheckpointError> {
        self.writer.complete()
    }

    fn finish(self: Box<Self>) -> Result<(), CheckpointError> {
        self.writer.finish()?;
        Ok(())
    }
}
