//! Packed tensors of any type and shape under any configuration.
#![no_main]

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use fewbit_checkpoint::{
    CheckpointError, CompressedTensors, Container, ContainerConfig, Dtype, Gptq, GptqVersion,
    ModuleScheme, PlanInfo, TensorInfo, TensorSource, TensorSpec,
};
use fewbit_format::Quantized;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use serde_json::json;

#[derive(Arbitrary, Debug)]
struct Input {
    gptq: bool,
    v2: bool,
    bits: u8,
    group_size: i16,
    symmetric: bool,
    early: bool,
    parts: Vec<(u8, u8, u8, Vec<u16>, Vec<u8>)>,
}

#[derive(Default)]
struct Memory(BTreeMap<String, (TensorInfo, Vec<u8>)>);

impl Memory {
    fn insert(&mut self, spec: TensorSpec, bytes: Vec<u8>) {
        let TensorSpec { name, dtype, shape } = spec;
        let info = TensorInfo { name: name.clone(), dtype, shape, bytes: bytes.len() as u64 };
        self.0.insert(name, (info, bytes));
    }
}

impl TensorSource for Memory {
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.get(name).map(|(info, _)| info)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        Ok(Cow::Borrowed(&self.0[name].1))
    }
}

const PARTS: [&str; 9] = [
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
];
const DTYPES: [Dtype; 7] =
    [Dtype::I32, Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::I64, Dtype::I8, Dtype::U8];

fuzz_target!(|input: Input| {
    let config = if input.gptq {
        json!({
            "quant_method": "gptq", "bits": input.bits, "group_size": input.group_size, "sym": input.symmetric,
            "checkpoint_format": if input.v2 { "gptq_v2" } else { "gptq" },
            "meta": {"quantizer": [if input.early { "gptqmodel:5.6" } else { "" }]},
        })
    } else {
        let strategy = match input.group_size {
            -1 => "channel",
            0 => "tensor",
            _ => "group",
        };
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {
            "targets": ["Linear"], "weights": {"num_bits": input.bits, "symmetric": input.symmetric,
            "strategy": strategy, "group_size": input.group_size}}}})
    };
    let Ok(config) = ContainerConfig::parse(config.as_object().unwrap(), Path::new("c")) else {
        return;
    };
    let mut memory = Memory::default();
    for (part, dtype, rank, shape, mut bytes) in input.parts {
        let part = PARTS[usize::from(part) % PARTS.len()];
        let dtype = DTYPES[usize::from(dtype) % DTYPES.len()];
        let mut shape: Vec<usize> = shape.into_iter().map(usize::from).collect();
        shape.resize(usize::from(rank % 4), 1);
        // As an opened file guarantees: the bytes are those of the shape.
        let spec = TensorSpec::new(format!("m.{part}"), dtype, shape);
        if spec.bytes() > 1 << 20 {
            continue;
        }
        bytes.resize(spec.bytes() as usize, 0x5a);
        memory.insert(spec, bytes);
    }
    if let Ok(matrix) = config.decode(&memory, "m") {
        assert_eq!(matrix.dequantize().len(), matrix.shape().len());
        for version in [GptqVersion::V1, GptqVersion::V2] {
            encode_and_decode(&Gptq { version }, &matrix);
        }
        encode_and_decode(&CompressedTensors::default(), &matrix);
    }
});

fn encode_and_decode(container: &dyn Container, matrix: &Quantized) {
    let Ok(tensors) = container.encode("m", matrix) else { return };
    let mut memory = Memory::default();
    for (spec, bytes) in tensors {
        assert_eq!(spec.bytes(), bytes.len() as u64);
        memory.insert(spec, bytes);
    }
    let (module, shape) = ("m".to_owned(), matrix.shape());
    let scheme = matrix.scheme();
    let group_map = matrix.group_of_column().is_some();
    let modules = [ModuleScheme { module, shape, scheme, group_map }];
    let config = container.config(&PlanInfo { modules: &modules, damping: None }).unwrap();
    let config = ContainerConfig::parse(&config, Path::new("c")).unwrap();
    let back = config.decode(&memory, "m").unwrap();
    // A written map that says what is so anyway is not read back, and −0 and 0 are equal.
    assert_eq!(back.dequantize(), matrix.dequantize());
}
