//! Rotation, SmoothQuant, HQQ and contests on tiny checkpoints.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{Checkpoint, CompressedTensors, InputRounding, IntLayout, Weight};
use fewbit_format::{
    Bits, BlockType, Granularity, IntScheme, Plan, Quantized, ScaleType, Scheme, Symmetry,
};
use fewbit_gptq::GptqSpec;
use fewbit_model::Model;
use fewbit_pipeline::{
    Calibration, Entry, HqqSpec, Job, Method, PipelineError, Rotation, Silent, SmoothQuantSpec,
    contest, rotate,
};
use fewbit_testkit::Random;

fn tiny(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/testdata").join(case)
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.below(96) as u32).collect()
}

fn logits(folder: &Path) -> fewbit_eval::ndarray::Array2<f32> {
    Model::load(&Checkpoint::open(folder).unwrap()).unwrap().logits(&tokens(40, 7)).unwrap()
}

fn scheme(bits: Bits, symmetry: Symmetry) -> IntScheme {
    IntScheme { bits, symmetry, granularity: Granularity::group(16), scale_type: ScaleType::F16 }
}

/// Biased layers, q and k norms, sliding windows, heads wider than the stream has room for, tied and untied heads, 16-bit files.
#[test]
fn rotated_models_compute_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        "tied",
        "untied",
        "tied-both",
        "tied-lm-head-only",
        "biases",
        "head-dim",
        "mha",
        "bf16",
        "qwen2",
        "qwen3-biases",
        "mistral-window",
        "exaone",
        "exaone-untied",
        "rope-llama3",
    ];
    for case in cases {
        let expected = logits(&tiny(case));
        let size = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        for rotation in [
            Rotation::default(),
            Rotation { values: false, seed: 3, ..Rotation::default() },
            Rotation { stream: false, ..Rotation::default() },
        ] {
            let out = folder.path().join(format!("{case}-{rotation:?}"));
            rotate(&tiny(case), &out, rotation, &mut Silent).unwrap();
            let off = (&logits(&out) - &expected).iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(off < 1e-4 * size, "{case} {rotation:?}: off by {off} of {size}");
            let weight = |folder: &Path| {
                let model = Checkpoint::open(folder).unwrap();
                let down = model.tensors().find(|t| t.name.contains("mlp")).unwrap().name.clone();
                model.read_f32(&down).unwrap()
            };
            if rotation.stream {
                assert!(weight(&out) != weight(&tiny(case)), "{case}: weights are others");
            }
        }
    }
}

#[test]
fn what_cannot_be_rotated_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rotated");
    for case in ["gemma3", "gpt2"] {
        let error = rotate(&tiny(case), &out, Rotation::default(), &mut Silent).unwrap_err();
        assert!(matches!(error, PipelineError::CannotRotate { .. }), "{error}");
        assert!(!out.exists());
    }
    // The values of their heads can, fused with queries and keys or not.
    for case in ["gemma3", "gpt2"] {
        let expected = logits(&tiny(case));
        let out = folder.path().join(case);
        let values = Rotation { stream: false, ..Rotation::default() };
        match rotate(&tiny(case), &out, values, &mut Silent) {
            // Matrices of GPT-2 lie the other way round.
            Err(error) => {
                assert!(case == "gpt2" && error.to_string().contains("transposed"), "{error}")
            }
            Ok(()) => {
                let off = (&logits(&out) - &expected).iter().fold(0f32, |m, x| m.max(x.abs()));
                assert!(off < 1e-4, "{case}: off by {off}");
            }
        }
    }
    fs::create_dir(&out).unwrap();
    let error = rotate(&tiny("tied"), &out, Rotation::default(), &mut Silent).unwrap_err();
    assert!(matches!(error, PipelineError::OutputExists { .. }), "{error}");
}

#[test]
fn half_quadratic_rounding_needs_no_text_and_a_zero_point() {
    let folder = tempfile::tempdir().unwrap();
    let grids = [
        Scheme::Int(scheme(Bits::B4, Symmetry::Affine)),
        Scheme::Int(scheme(Bits::B4, Symmetry::Symmetric)),
        Scheme::Block(BlockType::Q4_0),
    ];
    for (i, grid) in grids.into_iter().enumerate() {
        let run = |name: &str, method| {
            let out = folder.path().join(format!("{name}-{i}"));
            let mut job =
                Job::new(tiny("tied"), &out, Plan::uniform(grid), CompressedTensors::default());
            job.method = method;
            job.prepare(&mut Silent).and_then(|job| job.run(&mut Silent)).map(|_| out)
        };
        let hqq = run("hqq", Method::hqq(HqqSpec::default()));
        if i >= 1 {
            let error = hqq.unwrap_err();
            assert!(matches!(error, PipelineError::NoZeroPoint { .. }), "{error}");
            continue;
        }
        let (hqq, rtn) = (hqq.unwrap(), run("rtn", Method::nearest()).unwrap());
        let codes = |folder: &Path| {
            let model = Checkpoint::open(folder).unwrap();
            match model.weight("model.layers.0.mlp.down_proj").unwrap() {
                Weight::Quant(matrix) => (matrix.scheme(), matrix.dequantize()),
                Weight::Float { .. } => panic!("quantized"),
            }
        };
        assert_eq!(codes(&hqq).0, codes(&rtn).0);
        assert!(codes(&hqq).1 != codes(&rtn).1, "zero points moved");
    }
}

/// Inputs with outliers: SmoothQuant lowers what rounding inputs and weights to 8 bits does, keeps the float function, and says in the file that inputs are rounded.
#[test]
fn smoothquant_moves_outliers_into_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("smooth");
    let scheme = IntScheme {
        bits: Bits::B8,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::Channel,
        scale_type: ScaleType::F32,
    };
    let container =
        CompressedTensors { integers: IntLayout::Bytes, inputs: InputRounding::Int8PerToken };
    let mut job = Job::new(tiny("tied"), &out, Plan::uniform(Scheme::Int(scheme)), container);
    job.calibration = Some(Calibration::from_documents([tokens(24 * 40, 1)], 24, 40).unwrap());
    job.method = Method::smoothquant(SmoothQuantSpec { tokens: 400, ..SmoothQuantSpec::default() });
    let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert_eq!(report.method, "smoothquant");
    // The two norms of each of two blocks.
    assert_eq!(report.sites.len(), 4);
    assert!(report.sites.iter().all(|site| site.loss_after <= site.loss_before));
    assert!(report.sites.iter().any(|site| site.loss_after < 0.9 * site.loss_before));
    let (expected, found) = (logits(&tiny("tied")), logits(&out));
    let size = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let off = (&found - &expected).mapv(f32::abs).mean().unwrap();
    assert!(off < 0.02 * size, "8-bit weights alone cost little: {off} of {size}");
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let group = &config["quantization_config"]["config_groups"]["group_0"];
    assert_eq!(group["input_activations"]["strategy"], "token");
    assert_eq!(group["input_activations"]["dynamic"], true);
}

/// Fixed steps for inputs are the largest inputs of the calibration text, and need one.
#[test]
fn fixed_steps_of_inputs_come_from_calibration() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("static");
    let scheme = IntScheme {
        bits: Bits::B8,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::Channel,
        scale_type: ScaleType::F32,
    };
    let container =
        CompressedTensors { integers: IntLayout::Bytes, inputs: InputRounding::Int8Static };
    let mut job = Job::new(tiny("tied"), &out, Plan::uniform(Scheme::Int(scheme)), container);
    let refused = job.prepare(&mut Silent).unwrap_err();
    assert!(matches!(refused, PipelineError::InputScales { .. }), "{refused}");
    job = Job::new(tiny("tied"), &out, Plan::uniform(Scheme::Int(scheme)), container);
    job.calibration = Some(Calibration::from_documents([tokens(24 * 40, 1)], 24, 40).unwrap());
    job.method = Method::smoothquant(SmoothQuantSpec { tokens: 400, ..SmoothQuantSpec::default() });
    job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    let written = Checkpoint::open(&out).unwrap();
    let step = |module: &str| {
        let name = format!("model.layers.0.{module}.input_scale");
        written.read_f32(&name).unwrap()[0]
    };
    let query = step("self_attn.q_proj");
    assert!(query > 0.0 && query < 1.0, "{query}");
    assert_eq!(query, step("self_attn.k_proj"));
    assert_ne!(query, step("mlp.gate_proj"));
    let group = &written.config()["quantization_config"]["config_groups"]["group_0"];
    assert_eq!(group["input_activations"]["dynamic"], false);
}

#[test]
fn a_contest_is_continued_and_knows_foreign_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::uniform(Scheme::Int(scheme(Bits::B4, Symmetry::Affine)));
    let entries = |mismatch: f32| {
        let methods = [Method::nearest(), Method::gptq(GptqSpec::default(), mismatch)];
        methods.map(|method| {
            let out = folder.path().join(method.name());
            let mut job = Job::new(tiny("tied"), out, plan.clone(), CompressedTensors::default());
            job.method = method;
            if method.needs_calibration() {
                job.calibration =
                    Some(Calibration::from_documents([tokens(24 * 60, 1)], 24, 60).unwrap());
            }
            Entry { name: method.name().into(), job }
        })
    };
    let documents: Vec<_> = (10..20).map(|seed| tokens(24, seed)).collect();
    let run = |mismatch| contest(entries(mismatch).into(), &documents, 24, &mut Silent);
    let first = run(1.0).unwrap();
    assert_eq!(first.iter().map(|o| &*o.name).collect::<Vec<_>>(), ["rtn", "gptq"]);
    assert!(first[1].divergence.kl.value < first[0].divergence.kl.value);
    // Finished outputs are taken as they are, their reports too.
    let again = run(1.0).unwrap();
    assert_eq!(again[1].report, first[1].report);
    assert_eq!(again[1].divergence, first[1].divergence);
    // Another job's are not.
    let error = run(0.5).unwrap_err();
    assert!(matches!(error, PipelineError::OutputExists { .. }), "{error}");
    let kept = folder.path().join("kept");
    again[1].keep(&kept).unwrap();
    again[0].clone().discard().unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.as_slice(), std::slice::from_ref(&kept));
    let matrix = Checkpoint::open(&kept).unwrap().weight("model.layers.0.mlp.down_proj").unwrap();
    assert!(matches!(matrix, Weight::Quant(Quantized::Int(_))));
}
