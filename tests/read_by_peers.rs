//! Other tools decode our files to the same bits. What they decoded is kept as CRC-32 per matrix; `tools/peers/read_ours.sh` made the file.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use fewbit::{
    checkpoint::{
        Awq, BitsAndBytes, Checkpoint, CompressedTensors, Container, Dtype, Gptq, GptqVersion,
        IntLayout, Mlx, Weight,
    },
    format::{CodebookScheme, Float8Scheme, IntScheme, OffsetScheme, Plan, Scheme},
    pipeline::{Job, Silent},
};
use fewbit_testkit::crc32;

/// Grids by the names that the programs take.
#[path = "../examples/support/grid.rs"]
mod grid;

/// An example program, which `cargo test` builds beside the tests.
fn program(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// `gptq-v1:int4-g32-sym`: container and grid, of a model in bfloat16.
fn parse(case: &str) -> (Box<dyn Container>, Scheme) {
    let (container, grid) = case.split_once(':').unwrap();
    let container: Box<dyn Container> = match container {
        "gptq-v1" => Box::new(Gptq { version: GptqVersion::V1 }),
        "gptq-v2" => Box::new(Gptq { version: GptqVersion::V2 }),
        "awq" => Box::new(Awq),
        "compressed-tensors" => Box::new(CompressedTensors::default()),
        "compressed-tensors-bytes" => Box::new(CompressedTensors {
            integers: IntLayout::Bytes,
            ..CompressedTensors::default()
        }),
        "compressed-tensors-naive" => Box::new(CompressedTensors {
            integers: IntLayout::Naive,
            ..CompressedTensors::default()
        }),
        "bitsandbytes" => Box::new(BitsAndBytes),
        "mlx" => Box::new(Mlx),
        other => panic!("{other}"),
    };
    let scale_type = container.scale_type(Dtype::BF16);
    let scheme = match grid::for_folder(grid::parse_grid(grid).unwrap()) {
        Scheme::Int(scheme) => Scheme::Int(IntScheme { scale_type, ..scheme }),
        Scheme::Offset(scheme) => Scheme::Offset(OffsetScheme { value_type: scale_type, ..scheme }),
        Scheme::Float8(scheme) => Scheme::Float8(Float8Scheme { scale_type, ..scheme }),
        Scheme::Codebook(scheme) => {
            Scheme::Codebook(CodebookScheme { value_type: scale_type, ..scheme })
        }
        other => other,
    };
    (container, scheme)
}

#[test]
fn our_files_decode_as_the_other_tools_decode_them() {
    let golden: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(include_str!("golden/read-by-peers.json")).unwrap();
    assert!(golden.len() >= 34);
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let made =
        Command::new(program("synthesize")).args(["--shape", "tiny", "--out"]).arg(&model).output();
    assert!(made.unwrap().status.success());
    for (case, modules) in golden {
        let (container, scheme) = parse(&case);
        let out = folder.path().join(case.replace(':', "-"));
        let job = Job::new(&model, &out, Plan::uniform(scheme), Gptq::default());
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
