//! Training of the demo model: agreement with the runtime, exactness of what is exported, resuming, refusals.

use std::{fs, path::Path, sync::OnceLock};

use fewbit_checkpoint::{
    BitsAndBytes, Checkpoint, CompressedTensors, Gptq, InputRounding, IntLayout,
};
use fewbit_format::{
    Bits, Codebook, CodebookScheme, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry,
};
use fewbit_model::Model;
use fewbit_qat::{
    AdapterSpec, BlockText, Event, Geometry, Learn, Objective, Progress, QatError, Rates, Run,
    Silent, Start, Student, Windows, defaults, export, export_adapters, train_blocks, train_model,
};
use fewbit_testkit::{Random, max_abs_diff, shared_or_skip};

/// The demo model.
fn demo() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            fewbit_demo::write_model(folder.path()).unwrap();
            folder
        })
        .path()
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder).unwrap()
}

fn documents(seed: u64, n: usize) -> Vec<Vec<u32>> {
    let mut random = Random::new(seed);
    let mut document = || (0..50).map(|_| random.below(1024) as u32).collect();
    (0..n).map(|_| document()).collect()
}

fn windows(seed: u64) -> Windows {
    Windows::new(&documents(seed, 12), 24, 1024).unwrap()
}

fn plan(bits: Bits, symmetry: Symmetry) -> Plan {
    let granularity = Granularity::group(64);
    let scheme = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 };
    Plan::uniform(Scheme::Int(scheme))
}

fn quick(run: Run) -> Run {
    Run { batch: 2, check_every: 2, check_windows: 2, keep_every: 2, ..run }
}

fn still(run: Run) -> Run {
    let mut run = quick(run);
    run.optimization.rates = Rates::ZERO;
    run
}

#[test]
fn logits_agree_with_the_runtime() {
    let mut models = vec![demo().to_owned()];
    if let Some(shared) = shared_or_skip("logits_agree_with_the_runtime") {
        models.extend(
            ["TinyStories-656K", "llama-4m", "stories260K"].map(|m| shared.join("models").join(m)),
        );
    }
    for folder in models {
        let checkpoint = open(&folder);
        let student = Student::float(&checkpoint).unwrap();
        let vocab_size = student.config().vocab_size;
        let mut random = Random::new(1);
        let tokens: Vec<u32> = (0..2 * 150).map(|_| random.below(vocab_size) as u32).collect();
        let logits = student.logits(&tokens, &Geometry::new(student.config(), 150).unwrap());
        let model = Model::load(&checkpoint).unwrap();
        for (tokens, logits) in tokens.chunks(150).zip(logits.chunks(150 * vocab_size)) {
            let expected = model.logits(tokens).unwrap();
            let expected = expected.as_slice().unwrap();
            let size = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
            let (worst, at) = max_abs_diff(logits, expected);
            // Sums of a few hundred terms in another order, some blocks deep.
            assert!(worst < 2e-5 * size, "{}: off by {worst} of {size} at {at}", folder.display());
        }
    }
}

/// All tensors of a folder.
fn content(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn zero_rates_leave_the_checkpoint_identical() {
    let (model, container) = (open(demo()), Gptq::default());
    let teacher = Student::float(&model).unwrap();
    let out = tempfile::tempdir().unwrap();
    let (text, held_out) = (windows(1), windows(2));
    for (i, (bits, symmetry)) in
        [(Bits::B2, Symmetry::Affine), (Bits::B4, Symmetry::Symmetric)].into_iter().enumerate()
    {
        let plan = plan(bits, symmetry);
        let before = out.path().join(format!("before-{i}"));
        let first = Student::quantize(&model, &plan, &container, Start::Nearest).unwrap();
        export(&first, &model, Some(&container), &before).unwrap();
        let start = open(&before);
        let start = Start::Checkpoint(&start);
        for learn in [Learn::WEIGHTS, Learn::ROUNDING, Learn::SCALES] {
            let mut student = Student::quantize(&model, &plan, &container, start).unwrap();
            let run = still(defaults::full(3));
            let objective = Objective::Distill(&teacher);
            train_model(&mut student, learn, objective, &text, &held_out, &run, None, &mut Silent)
                .unwrap();
            let after = out.path().join(format!("after-{i}"));
            export(&student, &model, Some(&container), &after).unwrap();
            assert!(content(&before) == content(&after), "{bits:?} {learn:?}");
            fs::remove_dir_all(&after).unwrap();
        }
        let text = BlockText { text: &text, windows: 4, held_out: &held_out };
        let run = still(defaults::blocks(2));
        let (student, _) = train_blocks(
            &model,
            &plan,
            &container,
            start,
            Learn::WEIGHTS,
            text,
            &run,
            None,
            &mut Silent,
        )
        .unwrap();
        let after = out.path().join(format!("blocks-{i}"));
        export(&student, &model, Some(&container), &after).unwrap();
        assert!(content(&before) == content(&after), "{bits:?} block by block");
    }
    let mut student = Student::float(&model).unwrap();
    let run = still(defaults::fresh(2));
    let objective = Objective::NextToken;
    train_model(&mut student, Learn::FLOAT, objective, &text, &held_out, &run, None, &mut Silent)
        .unwrap();
    let after = out.path().join("float");
    export(&student, &model, None, &after).unwrap();
    let (before, after) = (open(demo()), open(&after));
    for info in before.tensors() {
        assert_eq!(before.read(&info.name).unwrap(), after.read(&info.name).unwrap());
    }
}

/// Stops after so many steps.
struct StopAfter(u64, u64);

impl Progress for StopAfter {
    fn event(&mut self, event: Event) {
        if let Event::Step { .. } = event {
            self.1 += 1;
        }
    }

    fn cancelled(&self) -> bool {
        self.1 >= self.0
    }
}

/// Trains for some steps; interrupted and continued if asked for. The bytes of the exported file.
fn trained(stops: &[u64], threads: usize) -> (Vec<u8>, f64, f64) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let (model, container) = (open(demo()), Gptq::default());
        let plan = plan(Bits::B2, Symmetry::Affine);
        let teacher = Student::float(&model).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.safetensors");
        let (text, held_out) = (windows(1), windows(2));
        let run = quick(defaults::full(6));
        let train = |progress: &mut dyn Progress| {
            let mut student = Student::quantize(&model, &plan, &container, Start::Nearest).unwrap();
            let objective = Objective::Distill(&teacher);
            let learn = Learn::WEIGHTS;
            let state = Some(&*state);
            train_model(&mut student, learn, objective, &text, &held_out, &run, state, progress)
                .map(|curve| (student, curve))
        };
        for &stop in stops {
            let refused = train(&mut StopAfter(stop, 0)).unwrap_err();
            assert!(matches!(refused, QatError::Cancelled { .. }), "{refused}");
        }
        let (student, curve) = train(&mut Silent).unwrap();
        assert_eq!(curve.steps.len(), 6);
        let out = folder.path().join("out");
        export(&student, &model, Some(&container), &out).unwrap();
        (content(&out), curve.first(), curve.best().1)
    })
}

#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let (whole, first, best) = trained(&[], 2);
    assert!(best < first, "training lowers the loss: {first} to {best}");
    let (pieces, ..) = trained(&[1, 3], 1);
    assert!(whole == pieces, "one run on two threads, another in pieces on one");
}

/// From nothing, with Muon and words that count more: also in pieces and on any number of threads the same.
#[test]
fn a_fresh_model_continues_to_the_same_bits() {
    let config = fewbit_model::ModelConfig::of(&open(demo())).unwrap();
    let documents = documents(1, 12);
    let even = |document: &[u32]| document.iter().map(|token| token % 2 == 0).collect();
    let text = Windows::new(&documents, 24, 1024).unwrap().emphasize(&documents, 4, even);
    let folder = tempfile::tempdir().unwrap();
    let run = quick(defaults::fresh(5));
    let train = |threads: usize, state: Option<&Path>, progress: &mut (dyn Progress + Send)| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut student = Student::fresh(&config, 3);
            let (learn, objective) = (Learn::FLOAT, Objective::NextToken);
            train_model(&mut student, learn, objective, &text, &windows(2), &run, state, progress)
                .map(|curve| (student, curve))
        })
    };
    let state = folder.path().join("state.safetensors");
    train(1, Some(&state), &mut StopAfter(3, 0)).unwrap_err();
    let (pieces, curve) = train(1, Some(&state), &mut Silent).unwrap();
    let (whole, same_curve) = train(2, None, &mut Silent).unwrap();
    assert_eq!(curve, same_curve);
    let (tokens, geometry) = (text.pairs([0]).0, Geometry::new(&config, 24).unwrap());
    assert_eq!(pieces.logits(&tokens, &geometry), whole.logits(&tokens, &geometry));
    let plain = windows(1);
    let mut student = Student::fresh(&config, 3);
    let (learn, objective) = (Learn::FLOAT, Objective::NextToken);
    let refused = train_model(
        &mut student,
        learn,
        objective,
        &plain,
        &windows(2),
        &run,
        Some(&state),
        &mut Silent,
    )
    .unwrap_err();
    assert!(matches!(refused, QatError::OtherRun { .. }), "{refused}");
}

/// Fixed steps for inputs: the steps are learned and written, and only where there is a place for them.
#[test]
fn fixed_steps_of_inputs_are_written() {
    let model = open(demo());
    let scheme = IntScheme {
        bits: Bits::B2,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::Channel,
        scale_type: ScaleType::BF16,
    };
    let plan = Plan::uniform(Scheme::Int(scheme));
    let container =
        CompressedTensors { integers: IntLayout::Bytes, inputs: InputRounding::Int8Static };
    let teacher = Student::float(&model).unwrap();
    let (text, held_out) = (windows(1), windows(2));
    let mut student = Student::quantize(&model, &plan, &container, Start::Nearest).unwrap();
    student.round_inputs(InputRounding::Int8Static, &text).unwrap();
    let first: Vec<f32> = student.input_steps().map(|(_, step)| step).collect();
    let run = quick(defaults::full(4));
    let (learn, objective) = (Learn::WEIGHTS, Objective::Distill(&teacher));
    let curve =
        train_model(&mut student, learn, objective, &text, &held_out, &run, None, &mut Silent)
            .unwrap();
    assert!(curve.best().0 > 0, "{curve:?}");
    let steps: Vec<(String, f32)> =
        student.input_steps().map(|(module, step)| (module.to_owned(), step)).collect();
    assert_eq!(steps.len(), 28);
    assert!(steps.iter().zip(&first).any(|((_, step), first)| step != first));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refused = export(&student, &model, Some(&Gptq::default()), &out).unwrap_err();
    assert!(matches!(refused, QatError::InputScales { .. }), "{refused}");
    export(&student, &model, Some(&container), &out).unwrap();
    let written = open(&out);
    for (module, step) in steps {
        assert_eq!(written.read_f32(&format!("{module}.input_scale")).unwrap(), [step]);
    }
    let config = &written.config()["quantization_config"]["config_groups"]["group_0"];
    assert_eq!(config["input_activations"]["dynamic"], false);
}

/// Adapters on NF4: trained, written as PEFT has them, merged into a float model.
#[test]
fn adapters_are_written_and_merged() {
    let model = open(demo());
    let scheme = CodebookScheme::new(Codebook::Nf4, 64, false, ScaleType::BF16);
    let plan = Plan::uniform(Scheme::Codebook(scheme));
    let teacher = Student::float(&model).unwrap();
    let (text, held_out) = (windows(1), windows(2));
    let mut student = Student::quantize(&model, &plan, &BitsAndBytes, Start::Nearest).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = export_adapters(&student, "base", &folder.path().join("none")).unwrap_err();
    assert!(matches!(refused, QatError::NoAdapters), "{refused}");
    student.adapt(AdapterSpec { rank: 4, alpha: 8.0, seed: 0 }).unwrap();
    let run = quick(defaults::adapters(6));
    let (learn, objective) = (Learn::ADAPTERS, Objective::Distill(&teacher));
    let curve =
        train_model(&mut student, learn, objective, &text, &held_out, &run, None, &mut Silent)
            .unwrap();
    assert!(curve.best().1 < curve.first(), "{curve:?}");
    let (files, merged) = (folder.path().join("adapter"), folder.path().join("merged"));
    export_adapters(&student, "base", &files).unwrap();
    let bytes = fs::read(files.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(tensors.tensor(name).unwrap().shape(), [4, 256]);
    assert_eq!(tensors.len(), 56);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(files.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &8.0.into()));
    export(&student.merged(), &model, None, &merged).unwrap();
    let merged = Model::load(&open(&merged)).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 37 % 1024).collect();
    let geometry = Geometry::new(student.config(), 24).unwrap();
    let expected = student.logits(&tokens, &geometry);
    // The merged weights are rounded to the type of the file.
    let (worst, _) = max_abs_diff(merged.logits(&tokens).unwrap().as_slice().unwrap(), &expected);
    assert!(worst < 0.2, "off by {worst}");
}

#[test]
fn refuses_what_cannot_work() {
    let (model, container) = (open(demo()), Gptq::default());
    let plan = plan(Bits::B4, Symmetry::Symmetric);
    let new = || Student::quantize(&model, &plan, &container, Start::Nearest).unwrap();
    let teacher = Student::float(&model).unwrap();
    let (text, held_out) = (windows(1), windows(2));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.safetensors");
    let train = |run: &Run, teacher: &Student| {
        let (learn, objective) = (Learn::WEIGHTS, Objective::Distill(teacher));
        let state = Some(&*state);
        train_model(&mut new(), learn, objective, &text, &held_out, run, state, &mut Silent)
    };
    let mut config = model.config().clone();
    config.insert("vocab_size".into(), 1000.into());
    let config = fewbit_model::ModelConfig::parse(&config).unwrap();
    let other = Student::fresh(&config, 1);
    let run = quick(defaults::full(2));
    let refused = train(&run, &other).unwrap_err();
    assert!(matches!(refused, QatError::Teacher { key: "vocab_size", .. }), "{refused}");

    train(&run, &teacher).unwrap();
    let kept = fs::read(&state).unwrap();
    let refused = train(&Run { seed: 7, ..run.clone() }, &teacher).unwrap_err();
    let QatError::OtherRun { what, .. } = &refused else { panic!("{refused}") };
    assert!(what.contains("seed"), "{what}");
    assert_eq!(fs::read(&state).unwrap(), kept);
    let mut rounded = new();
    rounded.round_inputs(InputRounding::Int8PerToken, &text).unwrap();
    let (learn, objective, kept_state) =
        (Learn::WEIGHTS, Objective::Distill(&teacher), Some(&*state));
    let refused = train_model(
        &mut rounded,
        learn,
        objective,
        &text,
        &held_out,
        &run,
        kept_state,
        &mut Silent,
    )
    .unwrap_err();
    let QatError::OtherRun { what, .. } = &refused else { panic!("{refused}") };
    assert!(what.contains("inputs"), "{what}");
    fs::remove_file(&state).unwrap();
    let mut wild = quick(defaults::fresh(9));
    wild.optimization.rates = Rates { weights: 1e38, ends: 1e38, ..Rates::ZERO };
    let mut student = Student::float(&model).unwrap();
    let (learn, objective, kept) = (Learn::FLOAT, Objective::NextToken, Some(&*state));
    let refused =
        train_model(&mut student, learn, objective, &text, &held_out, &wild, kept, &mut Silent)
            .unwrap_err();
    assert!(matches!(refused, QatError::Diverged { kept: 0, .. }), "{refused}");

    fs::write(&state, b"no state").unwrap();
    assert!(matches!(train(&run, &teacher).unwrap_err(), QatError::State { .. }));
    let mut wrong = run.clone();
    wrong.optimization.rates.weights = f32::NAN;
    assert!(matches!(train(&wrong, &teacher).unwrap_err(), QatError::Setting { .. }));
    let float = Plan::uniform(Scheme::Float);
    let refused = Student::quantize(&model, &float, &container, Start::Nearest).unwrap_err();
    assert!(matches!(refused, QatError::NothingToTrain));
}
