//! Other tools decode our files to the same bits. What they decoded is kept as CRC-32 per matrix; `tools/peers/read_ours.sh` made the file.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use fewbit::{
    checkpoint::{Checkpoint, CompressedTensors, Container, Gptq, GptqVersion, Weight},
    format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry},
    pipeline::{Job, Silent},
};
use fewbit_testkit::crc32;

/// An example program, which `cargo test` builds beside the tests.
fn program(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// `gptq-v1-4-32-symmetric`
fn parse(case: &str) -> (Box<dyn Container>, IntScheme) {
    let mut words = case.rsplitn(4, '-');
    let symmetry = match words.next() {
        Some("symmetric") => Symmetry::Symmetric,
        _ => Symmetry::Affine,
    };
    let granularity = match words.next().unwrap() {
        "channel" => Granularity::Channel,
        size => Granularity::group(size.parse().unwrap()),
    };
    let bits = Bits::try_from(words.next().unwrap().parse::<u32>().unwrap()).unwrap();
    let (container, scale_type): (Box<dyn Container>, _) = match words.next().unwrap() {
        "gptq-v1" => (Box::new(Gptq { version: GptqVersion::V1 }), ScaleType::F16),
        "gptq-v2" => (Box::new(Gptq { version: GptqVersion::V2 }), ScaleType::F16),
        // As the model's weights.
        _ => (Box::new(CompressedTensors::default()), ScaleType::BF16),
    };
    (container, IntScheme { bits, symmetry, granularity, scale_type })
}

#[test]
fn our_files_decode_as_the_other_tools_decode_them() {
    let golden: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(include_str!("golden/read-by-peers.json")).unwrap();
    assert!(golden.len() >= 9);
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let made =
        Command::new(program("synthesize")).args(["--shape", "tiny", "--out"]).arg(&model).output();
    assert!(made.unwrap().status.success());
    for (case, modules) in golden {
        let (container, scheme) = parse(&case);
        let out = folder.path().join(&case);
        let job = Job::new(&model, &out, Plan::uniform(Scheme::Int(scheme)), Gptq::default());
        Job { container, ..job }.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
        let written = Checkpoint::open(&out).unwrap();
        assert_eq!(modules.len(), 14, "{case}");
        for (module, expected) in modules {
            let Weight::Quant(matrix) = written.weight(&module).unwrap() else {
                panic!("{case}: {module} is not quantized");
            };
            // The sign of a zero is nothing that a file stores.
            let bytes: Vec<u8> =
                matrix.dequantize().iter().flat_map(|v| (v + 0.0).to_le_bytes()).collect();
            assert_eq!(format!("{:08x}", crc32(&bytes)), expected, "{case}: {module}");
        }
    }
}
