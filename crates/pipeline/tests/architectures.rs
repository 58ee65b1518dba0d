//! Whole jobs on a tiny checkpoint of every architecture.

use std::path::{Path, PathBuf};

use fewbit_checkpoint::{Awq, Checkpoint, CompressedTensors, Container, Gptq, Weight};
use fewbit_format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry};
use fewbit_gptq::GptqSpec;
use fewbit_model::{Model, ModelConfig};
use fewbit_pipeline::{
    AwqSpec, Calibration, Candidate, Job, Method, Repair, Silent, Transform, compare_streamed,
    sensitivity::{SensitivitySpec, measure},
};
use fewbit_testkit::Random;

const CASES: [&str; 8] =
    ["mistral-window", "qwen2", "qwen3", "gemma3", "gemma3-bf16", "gpt2", "gpt2-base", "exaone"];

fn tiny(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/testdata").join(case)
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.below(96) as u32).collect()
}

fn scheme(bits: Bits) -> Scheme {
    let (symmetry, scale_type) = (Symmetry::Affine, ScaleType::F16);
    Scheme::Int(IntScheme { bits, symmetry, granularity: Granularity::group(8), scale_type })
}

fn job(model: &Path, out: &Path, method: Method) -> Job {
    let mut job =
        Job::new(model, out, Plan::uniform(scheme(Bits::B4)), CompressedTensors::default());
    job.method = method;
    job.calibration = Some(Calibration::from_documents([tokens(40 * 60, 1)], 40, 60).unwrap());
    job
}

/// What the files hold is what the model computes with, and it is closer to the original than rounding to nearest; of AWQ alone, whose search sees little
/// text here, about as close.
#[test]
fn every_architecture_is_quantized_by_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let awq = AwqSpec { n_ratios: 4, tokens: 400, ..AwqSpec::default() };
    let before = AwqSpec { n_ratios: 3, tokens: 400, ..AwqSpec::before_gptq() };
    let gptq = || Method::gptq(GptqSpec::default(), 0.5);
    let both = Method { transform: Transform::Awq(before), ..gptq() };
    let methods = [("gptq", gptq(), 1.0), ("awq", Method::awq(awq), 1.1), ("awq+gptq", both, 1.0)];
    for case in CASES {
        let model = tiny(case);
        let original = Checkpoint::open(&model).unwrap();
        let config = ModelConfig::of(&original).unwrap();
        let documents: Vec<_> = (10..34).map(|seed| tokens(40, seed)).collect();
        for (name, method, share) in &methods {
            let out = folder.path().join(format!("{case}-{name}"));
            let job = job(&model, &out, *method);
            let plan = job.plan.clone();
            let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
            assert_eq!(report.matrices.len(), config.n_layers * config.roles().count());
            let without_effect = report.repairs().filter(|(_, r)| **r == Repair::NoEffect);
            assert_eq!(without_effect.count(), 0, "{case} {name}: calibration changes the result");
            let scaled = if *name == "gptq" { 0 } else { 4 };
            let scaled = if config.model_type() == "gpt2" { scaled * 3 / 4 } else { scaled };
            assert_eq!(report.sites.len(), config.n_layers * scaled, "{case} {name}");
            let quantized = Checkpoint::open(&out).unwrap();
            for layer in 0..config.n_layers {
                for role in config.roles() {
                    let weight = config.weight(&quantized, layer, role).unwrap();
                    assert_eq!(weight.shape(), config.shape(role));
                    assert!(matches!(weight, Weight::Quant(_)), "{case} {role:?}");
                }
            }
            let candidates =
                [Candidate::RoundedToNearest(&plan), Candidate::Checkpoint(&quantized)];
            let results =
                compare_streamed(&original, &candidates, &documents, 40, &mut Silent).unwrap();
            let (plain, kl) = (results[0].kl.value, results[1].kl.value);
            assert!(kl < share * plain, "{case} {name}: {kl} against {plain}");
        }
    }
}

#[test]
fn every_folder_container_carries_every_architecture() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["qwen3", "gpt2-base", "exaone"] {
        let containers: [Box<dyn Container>; 3] =
            [Box::new(Gptq::default()), Box::new(Awq), Box::new(CompressedTensors::default())];
        let logits = |path: &Path| {
            let model = Model::load(&Checkpoint::open(path).unwrap()).unwrap();
            model.logits(&tokens(40, 7)).unwrap()
        };
        let expected = logits(&tiny(case));
        let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        for container in containers {
            let name = format!("{case}-{}", container.name());
            let out = folder.path().join(&name);
            let mut job = job(&tiny(case), &out, Method::nearest());
            (job.plan, job.container) = (Plan::uniform(scheme(Bits::B4)), container);
            job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
            let off = (&logits(&out) - &expected).mapv(f32::abs).mean().unwrap() / largest;
            // Matrices the wrong way round would leave nothing of the logits.
            assert!((1e-4..0.1).contains(&off), "{name}: off by {off} on average");
        }
    }
}

#[test]
fn importance_and_sensitivity_are_measured_for_every_architecture() {
    let calibration = Calibration::from_documents([tokens(40 * 8, 1)], 40, 8).unwrap();
    let container = CompressedTensors::default();
    let probes = [tokens(30, 2)];
    for case in ["gemma3", "gpt2", "exaone"] {
        let model = Checkpoint::open(&tiny(case)).unwrap();
        let config = ModelConfig::of(&model).unwrap();
        let n = config.n_layers * config.roles().count();
        let importance =
            fewbit_pipeline::measure_importance(&model, &calibration, &mut Silent).unwrap();
        assert_eq!(importance.len(), n, "{case}");
        assert!(importance.values().flatten().all(|x| x.is_finite() && *x >= 0.0));
        let grids = vec![scheme(Bits::B4), scheme(Bits::B8)];
        for probe_each in [0, 128] {
            let mut spec = SensitivitySpec::new(
                grids.clone(),
                Method::nearest(),
                &container,
                &calibration,
                &probes,
            );
            spec.probe_each = probe_each;
            let found = measure(&tiny(case), &spec, &mut Silent).unwrap();
            assert_eq!(found.matrices().count(), n);
            assert!(found.matrices().all(|m| m.errors.len() == 2 && m.probes.len() == 2), "{case}");
        }
    }
}
