//! Every architecture of the runtime, in tiny checkpoints: agreement with the runtime, training, and what is exported.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{Checkpoint, CompressedTensors, Container, Gptq, Weight};
use fewbit_format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry};
use fewbit_model::{Architecture, Model, ModelConfig};
use fewbit_qat::{
    BlockText, Geometry, Learn, Objective, Rates, Run, Silent, Start, Student, Windows, defaults,
    export, train_blocks, train_model,
};
use fewbit_testkit::{Random, max_abs_diff};

/// One of each architecture, and where types or names differ, more.
const CASES: [&str; 10] = [
    "biases",
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
/// Tokens of a window; more than sliding windows have.
const WINDOW: usize = 20;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/testdata")
}

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder).unwrap()
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.below(96) as u32).collect()
}

/// Text that repeats itself, so that there is something to learn.
fn windows(seed: u64) -> Windows {
    let documents: Vec<_> = (0..8).map(|i| tokens(7, seed + i % 2).repeat(6)).collect();
    Windows::new(&documents, WINDOW, 96).unwrap()
}

fn plan() -> Plan {
    let (bits, symmetry, scale_type) = (Bits::B4, Symmetry::Affine, ScaleType::F16);
    let granularity = Granularity::group(8);
    Plan::uniform(Scheme::Int(IntScheme { bits, symmetry, granularity, scale_type }))
}

/// GPTQ where its words divide the shapes.
fn container(config: &ModelConfig) -> Box<dyn Container> {
    let fits = config.roles().all(|role| config.shape(role).out_features.is_multiple_of(8));
    if fits { Box::new(Gptq::default()) } else { Box::new(CompressedTensors::default()) }
}

fn quick(run: Run) -> Run {
    Run { batch: 2, check_every: 2, check_windows: 2, keep_every: 100, ..run }
}

fn still(run: Run) -> Run {
    let mut run = quick(run);
    run.optimization.rates = Rates::ZERO;
    run
}

/// Models so small that threads would only wait for each other.
fn in_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work)
}

fn student_logits(student: &Student, tokens: &[u32], window: usize) -> Vec<f32> {
    student.logits(tokens, &Geometry::new(student.config(), window).unwrap())
}

/// A student computes what the runtime makes of a file.
fn assert_runs_alike(student: &Student, file: &Checkpoint, case: &str) {
    let model = Model::load(file).unwrap();
    let window = 2 * WINDOW;
    let tokens = tokens(2 * window, 1);
    let logits = student_logits(student, &tokens, window);
    for (tokens, logits) in tokens.chunks(window).zip(logits.chunks(window * 96)) {
        let expected = model.logits(tokens).unwrap();
        let expected = expected.as_slice().unwrap();
        let size = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let (worst, at) = max_abs_diff(logits, expected);
        // Sums of a few dozen terms in another order, some blocks deep.
        assert!(worst < 1e-5 * size, "{case}: off by {worst} of {size} at {at}");
    }
}

/// The files of weights of a model.
fn content(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "safetensors"));
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn logits_agree_with_the_runtime() {
    let mut left: Vec<&str> = Architecture::types().collect();
    for entry in fs::read_dir(testdata()).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let file = open(&folder);
        let student = Student::float(&file).unwrap();
        left.retain(|model_type| *model_type != student.config().model_type());
        assert_runs_alike(&student, &file, &folder.display().to_string());
    }
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_architecture_learns_from_nothing() {
    in_one_thread(|| CASES.into_iter().for_each(learns_from_nothing));
}

fn learns_from_nothing(case: &str) {
    let config = ModelConfig::of(&open(&testdata().join(case))).unwrap();
    let mut student = Student::fresh(&config, 1);
    let (learn, objective) = (Learn::FLOAT, Objective::NextToken);
    let (text, held_out) = (windows(1), windows(1));
    let run = quick(defaults::fresh(12));
    let curve =
        train_model(&mut student, learn, objective, &text, &held_out, &run, None, &mut Silent)
            .unwrap();
    let (first, (_, best)) = (curve.first(), curve.best());
    // A model that knows nothing gives every token the same chance.
    assert!((first - 96f64.ln()).abs() < 0.5, "{case}: {first}");
    assert!(best < first - 0.2, "{case}: {first} to {best}");
}

#[test]
fn what_is_trained_in_few_bits_is_what_the_file_holds() {
    in_one_thread(|| CASES.into_iter().for_each(check_few_bits));
}

fn check_few_bits(case: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = open(&testdata().join(case));
    let teacher = Student::float(&file).unwrap();
    let container = container(teacher.config());
    let new = |start| Student::quantize(&file, &plan(), &*container, start).unwrap();
    let (text, held_out) = (windows(1), windows(1));
    let train = |student: &mut Student, learn, run: &Run| {
        let objective = Objective::Distill(&teacher);
        train_model(student, learn, objective, &text, &held_out, run, None, &mut Silent).unwrap()
    };
    let path = |name: &str| folder.path().join(format!("{case}-{name}"));
    let save = |student: &Student, name: &str| {
        export(student, &file, Some(&*container), &path(name)).unwrap();
        content(&path(name))
    };

    // Nothing learned: the file to begin with, whichever way.
    let before = save(&new(Start::Nearest), "before");
    let start = open(&path("before"));
    let start = Start::Checkpoint(&start);
    let learn = Learn { norms: true, ..Learn::WEIGHTS };
    let mut student = new(start);
    train(&mut student, learn, &still(defaults::full(2)));
    assert!(before == save(&student, "still"), "{case}");
    let blocks = BlockText { text: &text, windows: 4, held_out: &held_out };
    let run = still(defaults::blocks(2));
    let learn_blocks = Learn::WEIGHTS;
    let (student, _) = train_blocks(
        &file,
        &plan(),
        &*container,
        start,
        learn_blocks,
        blocks,
        &run,
        None,
        &mut Silent,
    )
    .unwrap();
    assert!(before == save(&student, "blocks"), "{case}, block by block");

    // Weights, steps and norms learned.
    let mut student = new(start);
    let curve = train(&mut student, learn, &quick(defaults::full(8)));
    assert!(curve.best().1 < curve.first(), "{case}: {:?}", curve.checks);
    assert!(before != save(&student, "after"), "{case}");
    let after = open(&path("after"));
    assert_runs_alike(&student, &after, case);
    let config = student.config();
    for layer in 0..config.n_layers {
        for role in config.roles() {
            let weight = config.weight(&after, layer, role).unwrap();
            assert!(matches!(weight, Weight::Quant(_)), "{case} {role:?}");
        }
    }
}

#[test]
fn floats_are_written_as_the_original_has_them() {
    let more = ["tied-lm-head-only", "tied-both", "exaone-untied"];
    in_one_thread(|| CASES.into_iter().chain(more).for_each(check_floats));
}

fn check_floats(case: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = open(&testdata().join(case));
    let (text, held_out) = (windows(1), windows(1));
    let train = |run: &Run| {
        let mut student = Student::float(&file).unwrap();
        let (learn, objective) = (Learn::FLOAT, Objective::NextToken);
        train_model(&mut student, learn, objective, &text, &held_out, run, None, &mut Silent)
            .unwrap();
        student
    };
    let still = train(&still(defaults::fresh(2)));
    let out = folder.path().join(format!("{case}-still"));
    export(&still, &file, None, &out).unwrap();
    let written = open(&out);
    for info in file.tensors() {
        let (a, b) = (file.read(&info.name).unwrap(), written.read(&info.name).unwrap());
        assert!(a == b, "{case}: {}", info.name);
    }

    let mut run = quick(defaults::fresh(4));
    // Far enough that every tensor moves in its type, and never too far.
    run.optimization.rates = Rates { weights: 1e-2, norms: 1e-2, ends: 1e-2, ..Rates::ZERO };
    let trained = train(&run);
    let out = folder.path().join(format!("{case}-trained"));
    export(&trained, &file, None, &out).unwrap();
    let written = open(&out);
    let again = Student::float(&written).unwrap();
    let tokens = tokens(WINDOW, 5);
    let logits = [&trained, &again].map(|s| student_logits(s, &tokens, WINDOW));
    let exact = file.tensors().all(|info| info.dtype == fewbit_checkpoint::Dtype::F32);
    let (worst, _) = max_abs_diff(&logits[0], &logits[1]);
    let size = logits[0].iter().fold(0f32, |most, x| most.max(x.abs()));
    let bound = if exact { 0.0 } else { 0.05 * size };
    assert!(worst <= bound, "{case}: off by {worst} of {size}");
    let original = student_logits(&Student::float(&file).unwrap(), &tokens, WINDOW);
    assert!(max_abs_diff(&logits[0], &original).0 > 0.0, "{case}: something was learned");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for case in ["gemma3", "gpt2", "qwen3"] {
        let file = open(&testdata().join(case));
        let train = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                let mut student = Student::float(&file).unwrap();
                let (text, held_out) = (windows(1), windows(1));
                let (learn, run) = (Learn::FLOAT, quick(defaults::fresh(3)));
                let objective = Objective::NextToken;
                let (text, held_out) = (&text, &held_out);
                train_model(
                    &mut student,
                    learn,
                    objective,
                    text,
                    held_out,
                    &run,
                    None,
                    &mut Silent,
                )
                .unwrap();
                student_logits(&student, &tokens(WINDOW, 5), WINDOW)
            })
        };
        assert!(train(1) == train(3), "{case}");
    }
}
