//! Folding leaves the float model as it is.

use std::path::{Path, PathBuf};

use fewbit_awq::{Candidate, Choice, Rule, Scales};
use fewbit_checkpoint::{CompressedTensors, Dtype, Weight};
use fewbit_format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry};
use fewbit_model::{Block, Ends, Linear, Site};
use fewbit_testkit::Random;
use ndarray::Array2;

use super::{Transformed, folds};
use crate::{AwqSpec, Calibration, Job, Method, Prepared, Silent};

fn prepared(model: &Path, folder: &Path, plan: impl Fn(Plan) -> Plan) -> Prepared {
    let scheme = Scheme::Int(IntScheme {
        bits: Bits::B4,
        symmetry: Symmetry::Affine,
        granularity: Granularity::Channel,
        scale_type: ScaleType::F16,
    });
    let mut random = Random::new(1);
    let tokens: Vec<u32> = (0..64).map(|_| random.below(96) as u32).collect();
    let plan = plan(Plan::uniform(scheme));
    let mut job = Job::new(model, folder.join("out"), plan, CompressedTensors::default());
    job.method = Method::awq(AwqSpec::default());
    job.calibration = Some(Calibration::from_documents([tokens], 32, 2).unwrap());
    job.prepare(&mut Silent).unwrap()
}

/// Scales between 1/8 and 8, equal where the fold needs it.
fn random_scales(random: &mut Random, fold: &super::Fold) -> Scales {
    let mut powers: Vec<f64> = (0..fold.map.n_consumed()).map(|_| random.normal()).collect();
    fold.map.tie(&mut powers);
    Scales::new(powers.iter().map(|p| 8f64.powf(p.tanh()) as f32).collect()).unwrap()
}

/// States after all blocks, with the float weights of every block folded by random scales, or as they are.
fn states(job: &Prepared, tokens: &[u32], seed: Option<u64>) -> (Array2<f32>, usize) {
    let ends = Ends::load(&job.model, &job.config).unwrap();
    let mut h = ends.embed(tokens).unwrap();
    let mut n_folds = 0;
    let mut random = Random::new(seed.unwrap_or(0));
    for layer in 0..job.config.n_layers {
        let mut block = Block::load(&job.model, &job.config, layer).unwrap();
        if seed.is_some() {
            let mut transformed = Transformed::default();
            for fold in folds(&job.model, &job.config, &job.modules, layer) {
                let scales = random_scales(&mut random, &fold);
                let candidate = Candidate { rule: Rule::Identity, scales };
                let choice = Choice { candidate, loss_before: 1.0, loss_after: 1.0 };
                let report = transformed.take(job, layer, fold, choice).unwrap();
                assert!(report.largest > 1.5 && report.smallest < 0.7, "{report:?}");
                n_folds += 1;
            }
            for role in job.config.roles() {
                let (module, shape) = (job.config.module(layer, role), job.config.shape(role));
                let mut data = job.config.weight_f32(&job.model, layer, role).unwrap();
                transformed.scales.fold(role, &mut data, shape.in_features);
                let bias = match transformed.bias(role) {
                    Some(bias) => Some(bias.to_vec()),
                    None => job.model.bias(&module).unwrap(),
                };
                let weight = Weight::Float { shape, dtype: Dtype::F32, data };
                block.set_linear(role, Linear::from_weight(weight, bias));
            }
            for (site, gain, bias) in transformed.norms {
                block.set_norm(site, gain, bias);
            }
        }
        block.forward(&mut h, &[tokens.len()], |_, _| {});
    }
    (ends.head(h.view()), n_folds)
}

#[test]
fn logits_do_not_change() {
    let folder = tempfile::tempdir().unwrap();
    let case = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/testdata").join(name)
    };
    let cases = [
        "tied",
        "untied",
        "mha",
        "biases",
        "head-dim",
        "bf16",
        "f16",
        "mistral-window",
        "qwen2",
        "qwen3",
        "qwen3-biases",
        "gemma3",
        "gemma3-bf16",
        "gpt2",
        "gpt2-base",
        "exaone",
    ];
    let cases = cases.map(case);
    let shared = fewbit_testkit::shared_or_skip("logits_do_not_change, larger models");
    let larger = shared
        .map(|s| ["TinyStories-656K", "llama-4m", "stories260K"].map(|m| s.join("models").join(m)));
    for model in cases.into_iter().chain(larger.into_iter().flatten()) {
        let job = prepared(&model, folder.path(), |plan| plan);
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 96).collect();
        let (before, _) = states(&job, &tokens, None);
        let (after, n_folds) = states(&job, &tokens, Some(3));
        // Nothing before GPT-2's GELU can take over scales.
        let n_sites = if job.config.model_type() == "gpt2" { 3 } else { 4 };
        assert_eq!(n_folds, n_sites * job.config.n_layers, "{}", model.display());
        let largest = before.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (a, b) in before.iter().zip(&after) {
            // A handful of f32 roundings more per value, none of the storage type, but for what LayerNorm adds.
            let bound = if model.ends_with("gpt2-base") { 0.02 } else { 3e-5 };
            assert!((a - b).abs() <= bound * largest, "{}: {a} {b}", model.display());
        }
    }
}

#[test]
fn float_matrices_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/testdata/tied");
    let job = prepared(&model, folder.path(), |plan| {
        plan.with("model.layers.0.self_attn.k_proj", Scheme::Float)
            .with("model.layers.1.mlp.up_proj", Scheme::Float)
            .with("model.layers.1.self_attn.v_proj", Scheme::Float)
    });
    let sites = |block| -> Vec<Site> {
        folds(&job.model, &job.config, &job.modules, block).iter().map(|f| f.site).collect()
    };
    assert_eq!(sites(0), [Site::AttentionMix, Site::MlpInput, Site::MlpMix]);
    assert_eq!(sites(1), []);
}
