//! Whole jobs on tiny random-weight checkpoints.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{
    Access, Checkpoint, CompressedTensors, Container, FolderWriter, Gptq, GptqVersion, Mlx,
    TensorSpec, Weight,
};
use fewbit_eval::{compare, from_fn};
use fewbit_format::{
    Bits, Granularity, IntScheme, OffsetScheme, Plan, Quantized, ScaleType, Scheme, Symmetry,
};
use fewbit_gptq::{GptqSpec, Groups};
use fewbit_model::{Model, ModelError};
use fewbit_pipeline::{
    AwqSpec, Calibration, Candidate, Event, Job, Method, PipelineError, Progress, Resume, Silent,
    Transform, compare_streamed,
};
use fewbit_testkit::Random;

fn tiny(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/testdata").join(case)
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.below(96) as u32).collect()
}

fn calibration() -> Calibration {
    Calibration::from_documents([tokens(24 * 40, 1)], 24, 40).unwrap()
}

fn scheme(bits: Bits, symmetry: Symmetry) -> IntScheme {
    IntScheme { bits, symmetry, granularity: Granularity::group(16), scale_type: ScaleType::F16 }
}

fn gptq(spec: GptqSpec) -> Method {
    Method::gptq(spec, 0.5)
}

fn awq() -> Method {
    Method::awq(AwqSpec { n_ratios: 4, tokens: 200, ..AwqSpec::default() })
}

fn awq_gptq() -> Method {
    let spec = AwqSpec { n_ratios: 3, tokens: 200, ..AwqSpec::before_gptq() };
    Method { transform: Transform::Awq(spec), ..gptq(GptqSpec::default()) }
}

fn job(model: &Path, out: &Path) -> Job {
    Job {
        importance: None,
        model: model.into(),
        out: out.into(),
        work: None,
        plan: Plan::uniform(Scheme::Int(scheme(Bits::B4, Symmetry::Affine))),
        method: gptq(GptqSpec::default()),
        container: Box::new(Gptq { version: GptqVersion::V2 }),
        calibration: Some(calibration()),
        resume: Resume::Auto,
        strict: false,
        shard_bytes: FolderWriter::SHARD_BYTES,
    }
}

/// Names and bytes of all files of a folder.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_container_and_method_writes_what_it_reports() {
    let folder = tempfile::tempdir().unwrap();
    let containers: [fn() -> Box<dyn Container>; 3] = [
        || Box::new(Gptq { version: GptqVersion::V1 }),
        || Box::new(Gptq { version: GptqVersion::V2 }),
        || Box::new(CompressedTensors::default()),
    ];
    for (i, container) in containers.iter().enumerate() {
        for method in [Method::nearest(), gptq(GptqSpec::default()), awq(), awq_gptq()] {
            for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
                let out = folder.path().join(format!("{i}-{}-{symmetry:?}", method.name()));
                let mut job = job(&tiny("tied"), &out);
                (job.container, job.method) = (container(), method);
                job.plan = Plan::uniform(Scheme::Int(scheme(Bits::B4, symmetry)));
                let prepared = job.prepare(&mut Silent).unwrap();
                let planned = prepared.bytes().1;
                let report = prepared.run(&mut Silent).unwrap();
                assert_eq!(report.bytes_after, planned);
                assert_eq!(report.matrices.len(), 14);
                let scaled = method.transform != Transform::None;
                assert_eq!(report.sites.len(), if scaled { 8 } else { 0 });
                for site in &report.sites {
                    assert!(site.loss_after <= site.loss_before, "{site:?}");
                    // A ratio of 0 of the rule with weights still divides by them.
                    assert!(site.ratio == 0.0 || site.smallest != site.largest, "{site:?}");
                }
                let expected = 4.0 + if symmetry == Symmetry::Affine { 20.0 } else { 16.0 } / 16.0;
                assert_eq!(report.bits_per_weight, expected);
                for m in &report.matrices {
                    assert!(m.weight_error > 0.0 && m.weight_error < 0.2, "{m:?}");
                    if let (Some(plain), Some(chosen)) = (m.output_error_plain, m.output_error) {
                        assert!(chosen <= plain, "{m:?}");
                    }
                }
                let checkpoint = Checkpoint::open(&out).unwrap();
                assert!(checkpoint.container().is_some());
                let logits = Model::load(&checkpoint).unwrap().logits(&tokens(24, 2)).unwrap();
                assert!(logits.iter().all(|v| v.is_finite()));
                assert!(!out.with_extension("work").exists(), "the work folder is removed");
            }
        }
    }
}

#[test]
fn every_method_rounds_to_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny("tied");
    let scheme = Scheme::Offset(OffsetScheme::new(Bits::B3, 32, ScaleType::F32));
    // Groups of 32 do not divide the 48 inputs of the last matrix of a block.
    let plan = (0..2).fold(Plan::uniform(scheme), |plan, block| {
        plan.with(format!("model.layers.{block}.mlp.down_proj"), Scheme::Float)
    });
    let offsets = |method: Method, name: &str| Job {
        plan: plan.clone(),
        method,
        container: Box::new(Mlx),
        ..job(&model, &folder.path().join(name))
    };
    let mut losses = Vec::new();
    for method in [Method::nearest(), gptq(GptqSpec::default()), awq(), awq_gptq()] {
        let job = offsets(method, method.name());
        let out = job.out.clone();
        let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
        assert_eq!(report.bits_per_weight, 5.0);
        let (mut plain, mut chosen) = (0.0, 0.0);
        for m in &report.matrices {
            if let (Some(before), Some(after)) = (m.output_error_plain, m.output_error) {
                assert!(after <= before, "{m:?}");
                (plain, chosen) = (plain + before, chosen + after);
            }
        }
        losses.push((plain, chosen));
        let checkpoint = Checkpoint::open(&out).unwrap();
        let logits = Model::load(&checkpoint).unwrap().logits(&tokens(24, 2)).unwrap();
        assert!(logits.iter().all(|v| v.is_finite()));
    }
    let (plain, solved) = losses[1];
    assert!(solved < 0.8 * plain, "{solved} {plain}");

    // Groups in the order of importance need a map, for which there is no place.
    let ordered = GptqSpec { groups: Groups::Ordered, ..GptqSpec::default() };
    let error = offsets(gptq(ordered), "ordered").prepare(&mut Silent).unwrap_err();
    assert!(error.to_string().contains("group map"), "{error}");
}

#[test]
fn gptq_is_closer_to_the_original_than_plain_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let original = Checkpoint::open(&tiny("tied")).unwrap();
    for bits in [Bits::B2, Bits::B4] {
        let out = folder.path().join(format!("{bits:?}"));
        let mut job = job(&tiny("tied"), &out);
        job.plan = Plan::uniform(Scheme::Int(scheme(bits, Symmetry::Affine)));
        let plan = job.plan.clone();
        job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
        let quantized = Checkpoint::open(&out).unwrap();
        let documents: Vec<_> = (10..26).map(|seed| tokens(40, seed)).collect();
        let candidates = [Candidate::RoundedToNearest(&plan), Candidate::Checkpoint(&quantized)];
        let results =
            compare_streamed(&original, &candidates, &documents, 40, &mut Silent).unwrap();
        let (plain, gptq) = (results[0].kl.value, results[1].kl.value);
        assert!(gptq < plain, "{bits:?}: {gptq} against {plain}");
    }
}

#[test]
fn streamed_comparison_equals_that_of_whole_models() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    job(&tiny("biases"), &out).prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    let (original, quantized) =
        (Checkpoint::open(&tiny("biases")).unwrap(), Checkpoint::open(&out).unwrap());
    // More than one chunk of tokens, lengths that differ, and one that is cut.
    let documents: Vec<_> = (0..90).map(|seed| tokens(7 + seed as usize % 50, seed)).collect();
    let candidate = [Candidate::Checkpoint(&quantized)];
    let streamed = compare_streamed(&original, &candidate, &documents, 40, &mut Silent).unwrap();
    let (a, b) = (Model::load(&original).unwrap(), Model::load(&quantized).unwrap());
    let mut a = from_fn(96, |t: &[u32]| -> Result<_, ModelError> { a.logits(t) });
    let mut b = from_fn(96, |t: &[u32]| -> Result<_, ModelError> { b.logits(t) });
    let whole = compare(&mut a, &mut b, &documents, 40).unwrap();
    let close = |x: f64, y: f64| (x - y).abs() <= 1e-4 * y.abs();
    assert!(close(streamed[0].kl.value, whole.kl.value), "{streamed:?} {whole:?}");
    assert!(close(streamed[0].model.perplexity, whole.model.perplexity));
    assert_eq!(streamed[0].model.n_tokens, whole.model.n_tokens);
}

/// Cancels at the n-th time of asking.
struct CancelAt {
    asked: Cell<usize>,
    at: usize,
}

impl Progress for CancelAt {
    fn event(&mut self, _: Event<'_>) {}

    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() == self.at
    }
}

/// Loud channels, as trained models have them: what AWQ is for.
fn with_loud_channels(folder: &Path, case: &str) -> PathBuf {
    let source = Checkpoint::open(&tiny(case)).unwrap();
    let out = folder.join(format!("loud-{case}"));
    let specs: Vec<_> = source.tensors().map(TensorSpec::from).collect();
    let mut writer = FolderWriter::create(&out, specs, FolderWriter::SHARD_BYTES).unwrap();
    for info in source.tensors() {
        let mut values = source.read_f32(&info.name).unwrap();
        assert_eq!(info.bytes as usize, 4 * values.len(), "an f32 model");
        if info.name.contains("layernorm") {
            values.iter_mut().step_by(7).for_each(|gain| *gain *= 12.0);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&info.name, &bytes).unwrap();
    }
    writer.write_json("config.json", &source.config().clone().into()).unwrap();
    writer.finish().unwrap()
}

#[test]
fn scales_are_found_written_and_pay() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["tied", "mha", "biases"] {
        let model = with_loud_channels(folder.path(), case);
        let original = Checkpoint::open(&model).unwrap();
        let out = folder.path().join(format!("{case}-out"));
        let mut job = job(&model, &out);
        (job.method, job.container) = (awq(), Box::new(CompressedTensors::default()));
        let plan = job.plan.clone();
        let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
        let quantized = Checkpoint::open(&out).unwrap();
        assert!(report.sites.iter().filter(|s| s.largest > 1.2).count() >= 4, "{case}");
        for site in &report.sites {
            let Some(tensor) = site.tensors.first().map(|tensor| &tensor.name) else { continue };
            let same = original.read(tensor).unwrap() == quantized.read(tensor).unwrap();
            let alone = site.smallest == 1.0 && site.largest == 1.0;
            assert_eq!(same, alone, "{case}: {site:?}");
        }
        let documents: Vec<_> = (10..26).map(|seed| tokens(40, seed)).collect();
        let candidates = [Candidate::RoundedToNearest(&plan), Candidate::Checkpoint(&quantized)];
        let results =
            compare_streamed(&original, &candidates, &documents, 40, &mut Silent).unwrap();
        let (plain, awq) = (results[0].kl.value, results[1].kl.value);
        assert!(awq < plain, "{case}: {awq} against {plain}");
    }
}

#[test]
fn scaling_resumes_to_the_same_bytes_for_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    for (name, method) in [("awq", awq()), ("awq+gptq", awq_gptq())] {
        let scaled = |out: &Path| Job { method, ..job(&tiny("biases"), out) };
        let straight = folder.path().join(format!("{name}-straight"));
        scaled(&straight).prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
        for at in [12, 30, 50, 80] {
            let out = folder.path().join(format!("{name}-{at}"));
            let mut cancel = CancelAt { asked: Cell::new(0), at };
            let first = scaled(&out).prepare(&mut cancel).and_then(|p| p.run(&mut cancel));
            assert!(matches!(first, Err(PipelineError::Cancelled { .. })), "{name} {at}");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            pool.install(|| scaled(&out).prepare(&mut Silent).unwrap().run(&mut Silent)).unwrap();
            assert_eq!(contents(&out), contents(&straight), "{name} cancelled at {at}");
        }
    }
}

#[test]
fn a_job_cancelled_anywhere_continues_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let straight = folder.path().join("straight");
    let report = job(&tiny("untied"), &straight).prepare(&mut Silent).unwrap().run(&mut Silent);
    let report = report.unwrap();
    for at in 1.. {
        let out = folder.path().join(format!("cancelled-{at}"));
        let mut cancel = CancelAt { asked: Cell::new(0), at };
        let first =
            job(&tiny("untied"), &out).prepare(&mut cancel).and_then(|p| p.run(&mut cancel));
        match first {
            Ok(_) => {
                assert!(at > 30, "only {at} places to cancel at");
                break;
            }
            Err(PipelineError::Cancelled { .. }) => assert!(!out.exists()),
            Err(error) => panic!("{error}"),
        }
        let resumed = job(&tiny("untied"), &out).prepare(&mut Silent).unwrap().run(&mut Silent);
        let resumed = resumed.unwrap();
        assert_eq!(contents(&out), contents(&straight), "cancelled at {at}");
        for (a, b) in report.matrices.iter().zip(&resumed.matrices) {
            assert_eq!((&a.values_hash, a.output_error), (&b.values_hash, b.output_error));
        }
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let run = |threads: usize| {
        let out = folder.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| job(&tiny("bf16"), &out).prepare(&mut Silent).unwrap().run(&mut Silent))
            .unwrap();
        contents(&out)
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn a_mixed_plan_and_a_group_map_survive_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut job = job(&tiny("sharded"), &out);
    job.method = gptq(GptqSpec { groups: Groups::Ordered, ..GptqSpec::default() });
    job.plan = job
        .plan
        .with("model.layers.0.mlp.down_proj", Scheme::Int(scheme(Bits::B8, Symmetry::Affine)))
        .with("model.layers.1.self_attn.o_proj", Scheme::Float);
    let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert_eq!(report.matrices.len(), 13);
    let written = Checkpoint::open(&out).unwrap();
    let bits = |module: &str| match written.weight(module).unwrap() {
        Weight::Quant(Quantized::Int(q)) => (q.scheme().bits.get(), q.group_of_column().is_some()),
        Weight::Quant(other) => panic!("{module} is on {}", other.scheme()),
        _ => (32, false),
    };
    assert_eq!(bits("model.layers.0.mlp.down_proj"), (8, true));
    assert_eq!(bits("model.layers.0.mlp.up_proj"), (4, true));
    assert_eq!(bits("model.layers.1.self_attn.o_proj"), (32, false));
}

/// A copy of a tiny checkpoint with one element of one tensor replaced.
fn with_element(folder: &Path, tensor: &str, index: usize, value: f32) -> PathBuf {
    let source = Checkpoint::open(&tiny("tied")).unwrap();
    let out = folder.join("changed");
    let specs: Vec<_> = source.tensors().map(TensorSpec::from).collect();
    let mut writer = FolderWriter::create(&out, specs, FolderWriter::SHARD_BYTES).unwrap();
    for info in source.tensors() {
        let mut bytes = source.read(&info.name).unwrap().into_owned();
        if info.name == tensor {
            bytes[index * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        writer.write(&info.name, &bytes).unwrap();
    }
    writer.write_json("config.json", &source.config().clone().into()).unwrap();
    writer.finish().unwrap()
}

#[test]
fn refusals_come_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let base = || job(&tiny("tied"), &out);
    let refused = |job: Job| {
        let error = job.prepare(&mut Silent).map(|_| ()).unwrap_err();
        assert!(!out.exists() && !folder.path().join("out.work").exists(), "{error}");
        error
    };

    let error = refused(Job { calibration: None, ..base() });
    assert!(matches!(error, PipelineError::CalibrationMissing));

    let wrong = Calibration::from_documents([[5, 96, 7]], 3, 1).unwrap();
    let error = refused(Job { calibration: Some(wrong), ..base() });
    assert!(matches!(error, PipelineError::TokenRange { token: 96, position: 1, vocab_size: 96 }));

    let error = refused(Job { method: awq(), calibration: None, ..base() });
    assert!(matches!(error, PipelineError::CalibrationMissing));

    let empty = Method::awq(AwqSpec { n_ratios: 0, ..AwqSpec::default() });
    let error = refused(Job { method: empty, ..base() });
    assert!(matches!(error, PipelineError::EmptySearch));

    let error = refused(Job { plan: Plan::uniform(Scheme::Float), ..base() });
    assert!(matches!(error, PipelineError::NothingToQuantize { matrices: 14 }));

    let plan = base().plan.with("model.layers.7.mlp.up_proj", Scheme::Float);
    let error = refused(Job { plan, ..base() });
    assert!(error.to_string().contains("model.layers.7.mlp.up_proj"), "{error}");

    let ragged =
        IntScheme { granularity: Granularity::group(20), ..scheme(Bits::B4, Symmetry::Affine) };
    let error = refused(Job { plan: Plan::uniform(Scheme::Int(ragged)), ..base() });
    assert!(error.to_string().contains("q_proj") && error.to_string().contains("20"), "{error}");

    let five = Plan::uniform(Scheme::Int(scheme(Bits::B5, Symmetry::Affine)));
    let error = refused(Job { plan: five, ..base() });
    assert!(error.to_string().contains("5 bits"), "{error}");

    let error = refused(Job { resume: Resume::Require, ..base() });
    assert!(matches!(error, PipelineError::NothingToResume { .. }));

    let error = refused(Job { model: folder.path().join("nothing"), ..base() });
    assert!(error.to_string().contains("nothing"), "{error}");

    let nan = with_element(folder.path(), "model.layers.1.mlp.up_proj.weight", 33, f32::NAN);
    let error = refused(Job { model: nan, ..base() });
    assert!(
        matches!(&error, PipelineError::NonFiniteWeight { tensor, index: 33, .. } if tensor.contains("1.mlp.up")),
        "{error}"
    );

    fs::create_dir(&out).unwrap();
    let error = base().prepare(&mut Silent).map(|_| ()).unwrap_err();
    assert!(matches!(error, PipelineError::OutputExists { .. }));
}

#[test]
fn a_quantized_model_is_not_quantized_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    job(&tiny("tied"), &out).prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    let error =
        job(&out, &folder.path().join("again")).prepare(&mut Silent).map(|_| ()).unwrap_err();
    assert!(matches!(error, PipelineError::AlreadyQuantized { .. }), "{error}");
}

#[test]
fn a_work_folder_of_another_job_is_named_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut cancel = CancelAt { asked: Cell::new(0), at: 25 };
    let first = job(&tiny("tied"), &out).prepare(&mut cancel).and_then(|p| p.run(&mut cancel));
    assert!(matches!(first, Err(PipelineError::Cancelled { .. })));
    let refused = |job: Job| {
        let error = job.prepare(&mut Silent).map(|_| ()).unwrap_err();
        assert!(matches!(error, PipelineError::WorkFolderMismatch { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(job(&tiny("untied"), &out)).contains("its model"));
    let method = gptq(GptqSpec { damping: 0.07, ..GptqSpec::default() });
    assert!(refused(Job { method, ..job(&tiny("tied"), &out) }).contains("method"));
    let other = Calibration::from_documents([tokens(24 * 40, 9)], 24, 40).ok();
    assert!(
        refused(Job { calibration: other, ..job(&tiny("tied"), &out) }).contains("calibration")
    );
    let written = fs::read_to_string(folder.path().join("out.work/job.json")).unwrap();
    let older = written.replacen("\"schema\": 2,", "", 1);
    let newer = written.replacen("\"schema\": 2", "\"schema\": 99", 1);
    let other = written.replacen(env!("CARGO_PKG_VERSION"), "7.7.7", 1);
    for (text, says) in [(older, "layout 1"), (newer, "layout 99"), (other, "version 7.7.7")] {
        assert_ne!(text, written);
        fs::write(folder.path().join("out.work/job.json"), text).unwrap();
        let error = job(&tiny("tied"), &out).prepare(&mut Silent).map(|_| ()).unwrap_err();
        assert!(matches!(error, PipelineError::WorkFolderVersion { .. }), "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains("remove it"));
    }
    fs::write(folder.path().join("out.work/job.json"), b"{").unwrap();
    assert!(refused(job(&tiny("tied"), &out)).contains("job.json"));
}

#[test]
fn strict_mode_turns_repairs_into_errors() {
    let folder = tempfile::tempdir().unwrap();
    let few = Calibration::from_documents([tokens(24, 1)], 24, 1).unwrap();
    let lenient =
        Job { calibration: Some(few.clone()), ..job(&tiny("tied"), &folder.path().join("a")) };
    let report = lenient.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert!(report.repairs().count() > 0);
    let strict = Job {
        calibration: Some(few),
        strict: true,
        ..job(&tiny("tied"), &folder.path().join("b"))
    };
    let error = strict.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap_err();
    assert!(matches!(error, PipelineError::Strict { .. }), "{error}");
}

#[test]
fn a_damaged_work_folder_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // Stops after the first block is finished.
    struct AfterFirst(bool);
    impl Progress for AfterFirst {
        fn event(&mut self, event: Event<'_>) {
            self.0 |= matches!(event, Event::Block { block: 1, .. });
        }
        fn cancelled(&self) -> bool {
            self.0
        }
    }
    let mut stop = AfterFirst(false);
    let first = job(&tiny("tied"), &out).prepare(&mut stop).and_then(|p| p.run(&mut stop));
    assert!(matches!(first, Err(PipelineError::Cancelled { .. })));
    let states = folder.path().join("out.work/states-001.f32");
    let bytes = fs::read(&states).unwrap();
    fs::write(&states, &bytes[..bytes.len() - 4]).unwrap();
    let error =
        job(&tiny("tied"), &out).prepare(&mut Silent).unwrap().run(&mut Silent).unwrap_err();
    assert!(error.to_string().contains("hidden states"), "{error}");
    assert!(!out.exists());
}

#[test]
fn checkpoints_are_read_without_mapping() {
    // The estimate of resident memory counts on it.
    let checkpoint = Checkpoint::open_with(&tiny("tied"), Access::Positioned).unwrap();
    let name = checkpoint.tensors().next().unwrap().name.clone();
    assert!(matches!(checkpoint.read(&name).unwrap(), std::borrow::Cow::Owned(_)));
}
