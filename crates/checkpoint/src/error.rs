//! What can be wrong with a model folder, a file in it, or something that should be written.

use std::{io, path::PathBuf};

use fewbit_format::FormatError;
use thiserror::Error;

use crate::{HeaderError, Item, Malformed, Problem, Refusal, gguf::GgmlType};

/// Errors of this crate. Each names the file or tensor, the number and what can be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not enough space.
    #[error("no space for {bytes} bytes at {}: free some, or choose another disk", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A folder without weights.
    #[error(
        "{} holds neither model.safetensors nor model.safetensors.index.json: name a Hugging Face model folder or a .safetensors file",
        folder.display()
    )]
    NoModel {
        /// The folder.
        folder: PathBuf,
    },
    /// A safetensors file with an impossible header.
    #[error("{} is not a valid safetensors file: {source}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A binary file that contradicts its format or itself: GGUF, an importance matrix, a legacy model.
    #[error("{} is not a valid {format} file: {source}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What it should be.
        format: &'static str,
        /// Where and why it is not.
        source: Box<Malformed>,
    },
    /// A metadata key that is needed and not there.
    #[error("metadata key {key} is missing: {expected} is needed")]
    MissingKey {
        /// The key.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A metadata key that holds something else than is needed.
    #[error("metadata key {key} holds {found}, but {expected} is needed")]
    KeyType {
        /// The key.
        key: String,
        /// What would do.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// A metadata key with a value that cannot be, or that has no counterpart in a Hugging Face model.
    #[error("metadata key {key}: {problem}")]
    MetadataValue {
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: ConfigProblem,
    },
    /// Divisors of the rotary frequencies that no configuration expresses.
    #[error("tensor {tensor} {problem}: no rope_scaling can stand for it")]
    RopeFreqs {
        /// The tensor.
        tensor: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A tensor that one kind of file has and the other has no place for, or that is missing.
    #[error("tensor {tensor} {problem}")]
    GgufTensor {
        /// The tensor.
        tensor: String,
        /// Why it cannot be.
        problem: &'static str,
    },
    /// A number that a tensor of the output cannot hold.
    #[error("tensor {tensor}: {problem}")]
    TensorValue {
        /// The tensor.
        tensor: String,
        /// The number, and what could be held.
        problem: ConfigProblem,
    },
    /// Two tokens of the same text.
    #[error("tokens {first} and {second} are both {token:?}, which llama.cpp does not load")]
    RepeatedToken {
        /// Their text.
        token: String,
        /// Id of one.
        first: usize,
        /// Id of the other.
        second: usize,
    },
    /// Files of a split model that do not belong together, or not in this order.
    #[error("{}: {key} is {found} instead of {expected}: {remedy}", file.display())]
    Split {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: i64,
        /// What it should be.
        expected: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// A file of a split model whose name does not lead to the others.
    #[error(
        "{} is one of {count} files of a model: the first must be named as in model-00001-of-{count:05}.gguf",
        file.display()
    )]
    SplitName {
        /// The file.
        file: PathBuf,
        /// Number of files.
        count: i64,
    },
    /// A file of a split model that is not there.
    #[error("{} is missing, number {number} of the {count} files of the model: fetch it", file.display())]
    MissingSplit {
        /// The file.
        file: PathBuf,
        /// Its number, from 1.
        number: usize,
        /// Number of files.
        count: usize,
    },
    /// A file of a legacy model in several files that does not fit the first.
    #[error("tensor {tensor} in {} has dimensions {dims:?}, but {expected} is needed", file.display())]
    PartShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dimensions, fastest first.
        dims: Vec<u64>,
        /// What would do.
        expected: &'static str,
    },
    /// Something that no reader of the format would take.
    #[error("cannot write {item}: {problem}")]
    Unwritable {
        /// What it belongs to.
        item: Item,
        /// What is wrong.
        problem: Problem,
    },
    /// A tensor of a type that its use does not allow.
    #[error("tensor {tensor} is {kind}, but {expected} is needed")]
    Kind {
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: GgmlType,
        /// What would do.
        expected: &'static str,
    },
    /// An importance matrix without entries.
    #[error("{} holds no importance of any tensor", file.display())]
    NoImportance {
        /// The file.
        file: PathBuf,
    },
    /// A tensor type without values that this crate knows.
    #[error("tensor {tensor} is {kind}, which can be copied but not decoded here")]
    CannotDecode {
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: GgmlType,
    },
    /// A name that no reader takes for an ONNX file.
    #[error("{} does not end in .onnx, by which readers know an ONNX file", path.display())]
    OnnxName {
        /// The output.
        path: PathBuf,
    },
    /// More than an ONNX file can hold.
    #[error(
        "{bytes} bytes do not fit into an ONNX file, which has at most {limit}: choose fewer bits, or another container"
    )]
    OnnxSize {
        /// Bytes of the file.
        bytes: u64,
        /// The most there can be.
        limit: u64,
    },
    /// Something that a legacy file does not say.
    #[error("the file does not say {what}: {remedy}")]
    LegacySetting {
        /// What it does not say.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// As many tokens as the embedding has rows are needed.
    #[error(
        "the vocabulary has {got} tokens and the embedding {expected} rows: give the one that belongs to the model"
    )]
    LegacyVocabulary {
        /// Tokens there are.
        got: usize,
        /// Rows of the embedding.
        expected: usize,
    },
    /// A token of a legacy file that is no text.
    #[error("token {id} is not UTF-8, which a GGUF file needs: give the tokens of the model")]
    LegacyToken {
        /// The token.
        id: usize,
    },
    /// A matrix of a legacy file that has no counterpart in the same type.
    #[error(
        "tensor {tensor} has scales that the f16 of {kind} blocks cannot hold: let it become f32, which keeps its values, and round that if it must be small"
    )]
    LegacyScales {
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: GgmlType,
    },
    /// A range that is not within a tensor, or does not end between blocks or rows.
    #[error(
        "{begin}..{end} is no range of whole blocks or rows in tensor {tensor}, which ends at {length}"
    )]
    TensorRange {
        /// The tensor.
        tensor: String,
        /// First byte, weight or row.
        begin: u64,
        /// Past the last one.
        end: u64,
        /// Bytes, weights or rows of the tensor.
        length: u64,
    },
    /// A JSON file that does not parse, or not to what it should be.
    #[error("{} is not valid: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A configuration key with a value that cannot be.
    #[error("{key} in {}: {problem}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// Path of the key.
        key: String,
        /// What is wrong.
        problem: ConfigProblem,
    },
    /// An index that names a file outside its folder.
    #[error("the index {} puts tensor {tensor} into {shard:?}: a shard must be a plain file name in the same folder", index.display())]
    ShardPath {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The path it names.
        shard: String,
    },
    /// A shard that the index names and the folder lacks.
    #[error("shard {} is missing: the index needs it for tensor {tensor} and {others} more; fetch the file again", shard.display())]
    MissingShard {
        /// The file that is not there.
        shard: PathBuf,
        /// A tensor that it should hold.
        tensor: String,
        /// How many others it should hold.
        others: usize,
    },
    /// A tensor that the index promises and the shard does not hold.
    #[error("the index puts tensor {tensor} into {}, which does not hold it: index and shards are of different models", shard.display())]
    AbsentFromShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: PathBuf,
    },
    /// A tensor that lies in two shards.
    #[error("tensor {tensor} is in {} and in {}: remove the shard that does not belong to the model", first.display(), second.display())]
    TensorInTwoShards {
        /// The tensor.
        tensor: String,
        /// One of the files.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A tensor that is needed and not there.
    #[error("tensor {tensor} is missing from {}", folder.display())]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A tensor that a quantized module needs and does not have.
    #[error("module {module} is quantized, but its tensor {tensor} is missing")]
    MissingPart {
        /// The module.
        module: String,
        /// The tensor.
        tensor: String,
    },
    /// A stored shape that contradicts the packed tensor.
    #[error("tensor {tensor} says shape {got:?}, but the packed tensor has {out_features} rows")]
    WeightShape {
        /// The tensor.
        tensor: String,
        /// What it holds.
        got: Vec<i64>,
        /// Rows of the packed tensor.
        out_features: usize,
    },
    /// A tensor of an element type that its use does not allow.
    #[error("tensor {tensor} is {got}, but {expected} is needed")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its element type.
        got: crate::Dtype,
        /// What would do.
        expected: &'static str,
    },
    /// A tensor of the wrong shape.
    #[error("tensor {tensor} has shape {got:?}, but {expected:?} is needed")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        got: Vec<usize>,
        /// What follows from the other tensors and the configuration.
        expected: Vec<usize>,
    },
    /// A tensor with the wrong number of dimensions.
    #[error("tensor {tensor} has {got} dimensions, but {expected} are needed")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        got: usize,
        /// How many it should have.
        expected: usize,
    },
    /// Both a float and a quantized weight, or quantized tensors without a configuration.
    #[error("module {module} has {tensor}, but {problem}")]
    Ambiguous {
        /// The module.
        module: String,
        /// A tensor of it.
        tensor: String,
        /// What contradicts it.
        problem: &'static str,
    },
    /// A symmetric file with a zero point off the middle.
    #[error(
        "module {module} is symmetric by its configuration, but row {row}, group {group} has zero point {found} instead of {expected}: set sym to false, or make the file again"
    )]
    SymmetricZeroPoint {
        /// The module.
        module: String,
        /// Output channel.
        row: usize,
        /// Group.
        group: usize,
        /// The zero point found.
        found: u8,
        /// The middle code.
        expected: u8,
    },
    /// A codebook that is not the one its name stands for.
    #[error(
        "module {module}: value {index} of its codebook is {found}, but {codebook} has {expected} there"
    )]
    Codebook {
        /// The module.
        module: String,
        /// Name of the codebook.
        codebook: &'static str,
        /// The code.
        index: usize,
        /// Its value in the file.
        found: f32,
        /// Its value by the name.
        expected: f32,
    },
    /// Rows of LLM.int8() laid out for a device.
    #[error(
        "tensor {tensor} says layout {format}, made for a GPU; only 0, row by row, can be read: save the model again with a newer bitsandbytes"
    )]
    WeightFormat {
        /// The tensor.
        tensor: String,
        /// The number found.
        format: u8,
    },
    /// A stored product of scale and zero point that is none.
    #[error(
        "module {module}, row {row}, group {group}: {product} is not -{scale} times a zero point of 4 bits: the file is damaged"
    )]
    ScaledZeroPoint {
        /// The module.
        module: String,
        /// Output channel.
        row: usize,
        /// Group.
        group: usize,
        /// The stored product.
        product: f32,
        /// The scale.
        scale: f32,
    },
    /// A GGUF file by a name that no reader knows it by.
    #[error("{} is to be a GGUF file: give it a name that ends in .gguf", path.display())]
    GgufName {
        /// The output.
        path: PathBuf,
    },
    /// A matrix that a container cannot carry.
    #[error("{container} cannot carry module {module}: {refusal}")]
    Refused {
        /// The container.
        container: &'static str,
        /// The module.
        module: String,
        /// Why, and what would do.
        refusal: Refusal,
    },
    /// Parts of a matrix that contradict each other.
    #[error("module {module}: {source}")]
    Format {
        /// The module.
        module: String,
        /// What is wrong.
        source: FormatError,
    },
    /// The output is already there.
    #[error("{} exists already: choose another output, or remove it first", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process writes the same output.
    #[error("another process is writing {}: wait for it, or choose another output", path.display())]
    OutputBusy {
        /// The temporary folder.
        path: PathBuf,
    },
    /// A name that is no plain file name.
    #[error("{name:?} is no plain file name")]
    FileName {
        /// The name.
        name: String,
    },
    /// A tensor name that no file should hold.
    #[error("{name:?} cannot name a tensor: {problem}")]
    TensorName {
        /// The name.
        name: String,
        /// Why.
        problem: &'static str,
    },
    /// A tensor written that was not announced, or written a second time.
    #[error("tensor {tensor} {problem}")]
    Unexpected {
        /// The tensor.
        tensor: String,
        /// Why it cannot be written.
        problem: &'static str,
    },
    /// Bytes that do not fill the announced tensor.
    #[error("tensor {tensor} takes {expected} bytes, not {got}")]
    TensorLength {
        /// The tensor.
        tensor: String,
        /// Bytes given.
        got: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// A folder finished before all its tensors were written.
    #[error("{missing} announced tensors were never written, the first is {tensor}")]
    Unwritten {
        /// The first.
        tensor: String,
        /// How many.
        missing: usize,
    },
}

/// What is wrong with a configuration value.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The key is not there.
    #[error("is missing")]
    Missing,
    /// The value has another type or range.
    #[error("{found} is not {expected}")]
    Expected {
        /// The value, shortened.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// A value that names something this version does not read.
    #[error("{found:?} is not supported; supported: {supported}")]
    Unsupported {
        /// The value.
        found: String,
        /// What is supported.
        supported: &'static str,
    },
    /// A pattern that is no regular expression of the supported kind.
    #[error("{pattern:?} is no pattern that can be read: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the parser said.
        reason: String,
    },
}

/// Adds the file and the action to an error of the system.
pub(crate) fn io(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.into();
    move |source| CheckpointError::Io { action, path, source }
}
