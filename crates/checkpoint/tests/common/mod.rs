//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{
    Checkpoint, CheckpointError, Container, ContainerConfig, Dtype, FolderWriter, ModuleScheme,
    PlanInfo, TensorInfo, TensorSource, TensorSpec,
};
use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Quantized, ScaleType, Scheme, Symmetry,
};
use fewbit_testkit::Random;
use serde_json::{Map, Value, json};

pub(crate) fn scheme(bits: Bits, symmetry: Symmetry, granularity: Granularity) -> IntScheme {
    IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 }
}

/// A matrix of random codes, scales of both signs and, where affine, zero points from `least` on.
pub(crate) fn matrix(
    shape: MatrixShape,
    scheme: IntScheme,
    least: u8,
    map: bool,
    seed: u64,
) -> QuantMatrix {
    let mut random = Random::new(seed);
    let MatrixShape { in_features, .. } = shape;
    let max = scheme.bits.max_code();
    let n_groups = scheme.granularity.n_groups(in_features);
    let n_scales = scheme.granularity.n_scales(shape);
    let codes = (0..shape.len()).map(|_| random.below(usize::from(max) + 1) as u8).collect();
    let scales = (0..n_scales).map(|_| scheme.scale_type.round(random.normal() as f32)).collect();
    let zeros = match scheme.symmetry {
        Symmetry::Symmetric => Vec::new(),
        Symmetry::Affine => {
            let levels = usize::from(max - least) + 1;
            (0..n_scales).map(|_| least + random.below(levels) as u8).collect()
        }
    };
    let map = map.then(|| {
        let mut map: Vec<u32> =
            (0..in_features).map(|c| (c * n_groups / in_features) as u32).collect();
        for i in (1..map.len()).rev() {
            map.swap(i, random.below(i + 1));
        }
        map
    });
    QuantMatrix::new(shape, scheme, codes, scales, zeros, map).unwrap()
}

/// Tensors in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(pub(crate) BTreeMap<String, (TensorInfo, Vec<u8>)>);

impl Memory {
    pub(crate) fn insert(&mut self, spec: TensorSpec, bytes: Vec<u8>) {
        assert_eq!(spec.bytes(), bytes.len() as u64, "{}", spec.name);
        let TensorSpec { name, dtype, shape } = spec;
        let info = TensorInfo { name: name.clone(), dtype, shape, bytes: bytes.len() as u64 };
        self.0.insert(name, (info, bytes));
    }

    pub(crate) fn words(&self, name: &str) -> Vec<u32> {
        self.0[name].1.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
    }
}

impl TensorSource for Memory {
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name).map(|(info, _)| info)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        match self.0.get(name) {
            Some((_, bytes)) => Ok(Cow::Borrowed(bytes)),
            None => {
                Err(CheckpointError::MissingTensor { tensor: name.into(), folder: PathBuf::new() })
            }
        }
    }
}

pub(crate) fn module(name: &str, scheme: Scheme) -> ModuleScheme {
    ModuleScheme { module: name.into(), shape: MatrixShape::new(64, 64), scheme, group_map: false }
}

/// The configuration of a plan, read back.
pub(crate) fn config(
    container: &dyn Container,
    modules: &[ModuleScheme],
) -> (Map<String, Value>, ContainerConfig) {
    let written = container.config(&PlanInfo { modules, damping: Some(0.02) }).unwrap();
    let read = ContainerConfig::parse(&written, Path::new("config.json")).unwrap();
    (written, read)
}

/// Encodes a matrix as module `m`, with the configuration of a plan that holds it alone.
pub(crate) fn encode(
    container: &dyn Container,
    matrix: &(impl Into<Quantized> + Clone),
) -> (Memory, ContainerConfig) {
    let matrix = matrix.clone().into();
    let mut memory = Memory::default();
    for (spec, bytes) in container.encode("m", &matrix).unwrap() {
        memory.insert(spec, bytes);
    }
    let (_, config) = config(container, &[module("m", matrix.scheme())]);
    (memory, config)
}

/// The bytes of a safetensors file with this header and data.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A folder with `model.safetensors` of these bytes.
pub(crate) fn folder_with(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

/// A file with f32 tensors of these names and sizes, all ones.
pub(crate) fn floats(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut header = Map::new();
    let mut at = 0;
    for (name, n) in tensors {
        let record = json!({"dtype": "F32", "shape": [n], "data_offsets": [at, at + 4 * n]});
        header.insert((*name).to_owned(), record);
        at += 4 * n;
    }
    let data: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), at / 4).flatten().collect();
    safetensors(&Value::Object(header).to_string(), &data)
}

pub(crate) fn f32_spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec::new(name, Dtype::F32, shape)
}

/// A float model of one norm (`norm.weight`: 1, −2, 0.5) in `folder/original`, opened, and the norm's tensor.
pub(crate) fn norm_model(folder: &Path, config: &Value) -> (Checkpoint, TensorSpec, Vec<u8>) {
    let path = folder.join("original");
    let norm: Vec<u8> = [1.0f32, -2.0, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    let spec = TensorSpec::new("norm.weight", Dtype::F32, [3]);
    let mut writer = FolderWriter::create(&path, vec![spec.clone()], u64::MAX).unwrap();
    writer.write("norm.weight", &norm).unwrap();
    writer.write_json("config.json", config).unwrap();
    writer.finish().unwrap();
    (Checkpoint::open(&path).unwrap(), spec, norm)
}

/// What a plan says of these matrices.
pub(crate) fn schemes(modules: &[(String, Quantized)]) -> Vec<ModuleScheme> {
    let scheme = |(module, matrix): &(String, Quantized)| ModuleScheme {
        module: module.clone(),
        shape: matrix.shape(),
        scheme: matrix.scheme(),
        group_map: false,
    };
    modules.iter().map(scheme).collect()
}
