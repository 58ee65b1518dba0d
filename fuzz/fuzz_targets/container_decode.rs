//! Packed tensors of any type and shape under any configuration, in every container.
#![no_main]

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use fewbit_checkpoint::{
    Awq, BitsAndBytes, CheckpointError, CompressedTensors, Container, ContainerConfig, Dtype, Fp8,
    Gptq, GptqVersion, IntLayout, Mlx, ModuleScheme, PlanInfo, TensorInfo, TensorSource,
    TensorSpec,
};
use fewbit_format::{
    Bits, Codebook, CodebookScheme, Float4, Float8, Float8Scheme, Granularity, IntScheme,
    MatrixShape, OffsetScheme, Quantized, ScaleTile, ScaleType, Scheme, Symmetry,
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use serde_json::{Value, json};

/// Tensors as a container announces them for a scheme, with any bytes; some replaced, and a key of the configuration too.
#[derive(Arbitrary, Debug)]
struct Input {
    container: u8,
    scheme: u8,
    bits: u8,
    group: u8,
    affine: bool,
    out: u8,
    columns: u8,
    bytes: Vec<u8>,
    /// `version` of AWQ, `meta.quantizer` of GPTQ.
    variant: u8,
    replaced: Vec<(u8, u8, Vec<u16>, Vec<u8>)>,
    text: Option<String>,
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

const DTYPES: [Dtype; 11] = [
    Dtype::I32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F32,
    Dtype::I64,
    Dtype::I16,
    Dtype::I8,
    Dtype::U8,
    Dtype::U32,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
];

fn containers() -> [Box<dyn Container>; 9] {
    [
        Box::new(Gptq { version: GptqVersion::V1 }),
        Box::new(Gptq { version: GptqVersion::V2 }),
        Box::new(Awq),
        Box::new(CompressedTensors { integers: IntLayout::Packed }),
        Box::new(CompressedTensors { integers: IntLayout::Bytes }),
        Box::new(CompressedTensors { integers: IntLayout::Naive }),
        Box::new(BitsAndBytes),
        Box::new(Fp8),
        Box::new(Mlx),
    ]
}

fn scheme(input: &Input) -> Scheme {
    let scale_type = [ScaleType::F16, ScaleType::BF16, ScaleType::F32][usize::from(input.bits) % 3];
    let size = u32::from(input.group) + 1;
    let granularity = match input.group {
        0 => Granularity::Tensor,
        1 => Granularity::Channel,
        _ => Granularity::group(size),
    };
    let element = if input.affine { Float8::E5M2 } else { Float8::E4M3 };
    let tile = match input.group {
        0 => ScaleTile::Tensor,
        1 => ScaleTile::Channel,
        _ => ScaleTile::block(size, u32::from(input.bits) + 1),
    };
    let bits = Bits::ALL[usize::from(input.bits) % 6];
    let symmetry = if input.affine { Symmetry::Affine } else { Symmetry::Symmetric };
    match input.scheme % 9 {
        0..=2 => Scheme::Int(IntScheme { bits, symmetry, granularity, scale_type }),
        3 => Scheme::Codebook(CodebookScheme::new(Codebook::Nf4, size, input.affine, scale_type)),
        4 => Scheme::Codebook(CodebookScheme::new(Codebook::Fp4, size, input.affine, scale_type)),
        5 => Scheme::LlmInt8,
        6 => Scheme::Float8(Float8Scheme { element, tile, scale_type }),
        7 => Scheme::Offset(OffsetScheme::new(bits, size.next_power_of_two(), scale_type)),
        _ => Scheme::Float4(if input.affine { Float4::Mxfp4 } else { Float4::Nvfp4 }),
    }
}

fn info(scheme: Scheme, shape: MatrixShape) -> [ModuleScheme; 1] {
    [ModuleScheme { module: "m".into(), shape, scheme, group_map: false }]
}

fuzz_target!(|input: Input| {
    let container = &containers()[usize::from(input.container) % 9];
    let (scheme, shape) =
        (scheme(&input), MatrixShape::new(input.out.into(), input.columns.into()));
    let modules = info(scheme, shape);
    let plan = PlanInfo { modules: &modules, damping: None };
    let Some(mut config) = container.config(&plan) else { return };
    match input.variant % 6 {
        1 => drop(config.insert("version".into(), json!("gemv"))),
        2 => drop(config.insert("version".into(), json!("gemv_fast"))),
        3 => drop(config.insert("meta".into(), json!({"quantizer": ["gptqmodel:5.6"]}))),
        _ => {}
    }
    if let (Some(text), Some(key)) = (&input.text, config.keys().nth(input.variant.into()).cloned())
    {
        config.insert(key, serde_json::from_str(text).unwrap_or(Value::String(text.clone())));
    }
    let Ok(config) = ContainerConfig::parse(&config, Path::new("c")) else { return };
    let mut specs = container.tensors("m", shape, &scheme, false);
    specs.push(TensorSpec::new("m.g_idx", Dtype::I32, [shape.in_features]));
    specs.push(TensorSpec::new("m.weight_g_idx", Dtype::I32, [shape.in_features]));
    let mut bytes = input.bytes.iter().copied().cycle();
    let mut memory = Memory::default();
    for (i, mut spec) in specs.into_iter().enumerate() {
        let mut own = None;
        if let Some((_, dtype, dims, bytes)) =
            input.replaced.iter().find(|(which, ..)| usize::from(*which) == i)
        {
            spec.dtype = DTYPES[usize::from(*dtype) % DTYPES.len()];
            spec.shape = dims.iter().take(4).map(|&d| d.into()).collect();
            own = Some(bytes);
        } else if spec.name.ends_with("g_idx") {
            continue;
        }
        // As an opened file guarantees: the bytes are those of the shape.
        let Ok(length) = usize::try_from(spec.bytes()) else { continue };
        if length > 1 << 20 {
            continue;
        }
        let mut data: Vec<u8> =
            own.cloned().unwrap_or_else(|| bytes.by_ref().take(length).collect());
        data.resize(length, 0x5a);
        // The texts and tables of bitsandbytes are never guessed.
        if own.is_none() && (spec.name.contains("quant_state") || spec.name.ends_with(".quant_map"))
        {
            let zeros = vec![0.0; shape.len()];
            let Ok(matrix) = Quantized::round_to_nearest(&zeros, shape, scheme) else { return };
            let Ok(tensors) = container.encode("m", &matrix) else { return };
            let Some((_, valid)) = tensors.into_iter().find(|(s, _)| s.name == spec.name) else {
                return;
            };
            data = valid;
        }
        memory.insert(spec, data);
    }
    if !config.holds(&memory, "m") {
        return;
    }
    if let Ok(matrix) = config.decode(&memory, "m") {
        assert_eq!(matrix.dequantize().len(), matrix.shape().len());
        for container in containers() {
            encode_and_decode(&*container, &matrix);
        }
    }
});

fn encode_and_decode(container: &dyn Container, matrix: &Quantized) {
    let Ok(tensors) = container.encode("m", matrix) else { return };
    let mut memory = Memory::default();
    for (spec, bytes) in tensors {
        assert_eq!(spec.bytes(), bytes.len() as u64);
        memory.insert(spec, bytes);
    }
    let modules = info(matrix.scheme(), matrix.shape());
    let config = container.config(&PlanInfo { modules: &modules, damping: None }).unwrap();
    let config = ContainerConfig::parse(&config, Path::new("c")).unwrap();
    let back = config.decode(&memory, "m").unwrap();
    // A written map that says what is so anyway is not read back, and −0 and 0 are equal.
    assert_eq!(back.dequantize(), matrix.dequantize());
}
