//! Sensitivities of the demo model, plans from them, and the program around them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use fewbit::{
    checkpoint::{Access, Checkpoint, Container, Gptq, GptqVersion},
    format::{Plan, Scheme},
    gptq::GptqSpec,
    model::{ModelConfig, Tokenizer},
    pipeline::{
        Calibration, Event, Job, Method, PipelineError, Progress, Silent,
        sensitivity::{
            PlanFile, PlanningProblem, Sensitivities, SensitivityError, SensitivitySpec, Tie,
            compare_plans, grid_name, grid_of_name, measure, other_bytes,
        },
    },
    planner::{Budget, Frontier, PlannerError, Selection, best_uniform, solve},
};

const GRIDS: [&str; 6] = ["int2-g64", "int3-g64", "int4-g64", "int4-g32", "int8-g64", "float"];

fn grids() -> Vec<Scheme> {
    GRIDS.iter().map(|name| grid_of_name(name).unwrap()).collect()
}

fn gptq() -> Method {
    Method::gptq(GptqSpec { refine_passes: 0, ..GptqSpec::default() }, 1.0)
}

/// The demo model as a folder, and some of its text.
struct Demo {
    folder: tempfile::TempDir,
    calibration: Calibration,
    probes: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

fn demo() -> &'static Demo {
    static DEMO: OnceLock<Demo> = OnceLock::new();
    DEMO.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fewbit_demo::write_model(folder.path()).unwrap();
        let checkpoint = Checkpoint::open_with(folder.path(), Access::Positioned).unwrap();
        let bos = ModelConfig::of(&checkpoint).unwrap().bos_token;
        let tokenizer = Tokenizer::load(&checkpoint).unwrap();
        let documents = |split, bytes| -> Vec<Vec<u32>> {
            let text = fewbit_demo::text(split, bytes);
            let stories = text.split(fewbit_demo::SEPARATOR);
            stories.map(|story| tokenizer.encode_with_bos(story, bos).unwrap()).collect()
        };
        let calibration = documents(fewbit_demo::Split::Calibration, 30_000);
        let held_out = documents(fewbit_demo::Split::Validation, 20_000);
        Demo {
            calibration: Calibration::from_documents(&calibration, 256, 16).unwrap(),
            probes: calibration
                .iter()
                .rev()
                .take(4)
                .map(|d| d[..d.len().min(128)].to_vec())
                .collect(),
            held_out: held_out.iter().map(|d| d[..d.len().min(256)].to_vec()).collect(),
            folder,
        }
    })
}

fn container() -> Gptq {
    Gptq { version: GptqVersion::V2 }
}

fn spec<'a>(container: &'a dyn Container, cache: Option<PathBuf>) -> SensitivitySpec<'a> {
    let demo = demo();
    let spec = SensitivitySpec::new(grids(), gptq(), container, &demo.calibration, &demo.probes);
    let probe_grids = vec![grids()[0], grids()[2]];
    SensitivitySpec { probe_grids, rows: 64, cache, ..spec }
}

fn measured() -> &'static Sensitivities {
    static MEASURED: OnceLock<Sensitivities> = OnceLock::new();
    MEASURED.get_or_init(|| {
        measure(demo().folder.path(), &spec(&container(), None), &mut Silent).unwrap()
    })
}

fn problem(tie: Tie) -> PlanningProblem {
    measured().problem(&grids(), &container(), tie, None).unwrap()
}

fn plan_of(problem: &PlanningProblem, selection: &Selection) -> Plan {
    let file = PlanFile::new(measured(), problem, selection, "demo", "gptq_v2", "gptq");
    file.plan(Path::new("plan.json")).unwrap()
}

#[test]
fn finer_grids_cost_less_and_all_of_it_is_measured() {
    let s = measured();
    assert!(s.complete && s.together.len() == 2);
    for m in s.matrices() {
        let widths = [0, 1, 2, 4, 5].map(|i| grids()[i]);
        let losses = widths.map(|grid| m.loss(&grid).unwrap());
        assert!(losses.is_sorted_by(|a, b| a > b) && losses[4] == 0.0, "{}: {losses:?}", m.module);
        assert_eq!(m.probes.len(), 2, "{}", m.module);
        assert!(m.probes[0].kl > 0.0 && m.probes[1].kl > m.probes[0].kl, "{m:?}");
        assert!(m.weights.deviation > 0.0 && m.inputs.dynamic_range >= 1.0);
    }
    assert!(s.blocks.iter().all(|b| b.influence > 0.0 && b.influence < 2.0));
    // All matrices in error cost more than the worst of them.
    let (grid, kl) = s.together.iter().next().unwrap();
    let grid = grid_of_name(grid).unwrap();
    let worst = s.matrices().map(|m| m.loss(&grid).unwrap()).fold(0.0, f64::max);
    assert!(*kl > worst, "{kl} against {worst}");
}

/// Stops after the first block.
struct Impatient;

impl Progress for Impatient {
    fn event(&mut self, _: Event<'_>) {}

    fn cancelled(&self) -> bool {
        STOP.get().is_some_and(|path| {
            fs::read(path).is_ok_and(|b| {
                serde_json::from_slice::<Sensitivities>(&b).is_ok_and(|s| !s.blocks.is_empty())
            })
        })
    }
}

static STOP: OnceLock<PathBuf> = OnceLock::new();

#[test]
fn a_stopped_measurement_goes_on_and_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("measured.json");
    STOP.set(cache.clone()).unwrap();
    let container = container();
    let model = demo().folder.path();
    let stopped = measure(model, &spec(&container, Some(cache.clone())), &mut Impatient);
    let cancelled = PipelineError::Cancelled { folder: cache.clone() }.to_string();
    assert_eq!(stopped.unwrap_err().to_string(), cancelled);
    let partial: Sensitivities = serde_json::from_slice(&fs::read(&cache).unwrap()).unwrap();
    assert!(!partial.complete && partial.blocks.len() < measured().blocks.len());

    let whole = measure(model, &spec(&container, Some(cache.clone())), &mut Silent).unwrap();
    assert_eq!(&whole, measured());
    // What is known is not measured again: the file alone answers.
    let again = measure(model, &spec(&container, Some(cache.clone())), &mut Silent).unwrap();
    assert_eq!(again, whole);
    // Other text, other answers.
    let mut other = spec(&container, Some(cache));
    other.probes = &demo().held_out[..2];
    let other = measure(model, &other, &mut Silent).unwrap();
    assert_ne!(other.settings, whole.settings);
    assert_ne!(other.blocks[0].matrices[0].probes, whole.blocks[0].matrices[0].probes);
}

/// Blocks and roles instead of each matrix: sums over a block agree with what was measured of it.
#[test]
fn probes_of_blocks_and_roles_rank_matrices_alike() {
    let container = container();
    let spec = SensitivitySpec { probe_each: 0, ..spec(&container, None) };
    let few = measure(demo().folder.path(), &spec, &mut Silent).unwrap();
    let grid = grids()[0];
    let logs = |s: &Sensitivities| -> Vec<f64> {
        s.matrices().map(|m| m.loss(&grid).unwrap().ln()).collect()
    };
    let (a, b) = (logs(&few), logs(measured()));
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(&b).map(|(a, b)| f(a - ma, b - mb)).sum()
    };
    let correlation = sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    assert!(correlation > 0.6, "{correlation}: {a:?} {b:?}");
}

#[test]
fn plans_keep_their_bytes_to_the_last_and_say_what_they_cost() {
    let problem = problem(Tie::None);
    let demo = demo();
    let folder = tempfile::tempdir().unwrap();
    let model = Checkpoint::open_with(demo.folder.path(), Access::Positioned).unwrap();
    let budget = problem.problem.least_bytes() * 3 / 2;
    let selection = solve(&problem.problem, &Budget::bytes(budget)).unwrap().selection;
    assert!(selection.bytes <= budget && selection.bytes > budget * 9 / 10);
    let plan = plan_of(&problem, &selection);
    let mut job = Job::new(demo.folder.path(), folder.path().join("out"), plan, container());
    job.method = Method::nearest();
    let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert_eq!(report.bytes_after, other_bytes(&model, measured()) + selection.bytes);
    let weights: usize = measured().matrices().map(|m| m.shape().len()).sum();
    assert!(report.bits_per_weight <= selection.bytes as f64 * 8.0 / weights as f64);

    let frontier = Frontier::new(&problem.problem);
    assert!(frontier.points().is_sorted_by(|a, b| a.bytes < b.bytes && a.loss > b.loss));
    let error = solve(&problem.problem, &Budget::bytes(10)).unwrap_err();
    let least = problem.problem.least_bytes();
    assert_eq!(error, PlannerError::Impossible { what: "bytes", budget: 10, least });
}

#[test]
fn tied_matrices_take_the_same_grid() {
    let (free, tied) = (problem(Tie::None), problem(Tie::SharedInput));
    assert_eq!(tied.problem.units().len() * 7, free.problem.units().len() * 4);
    let budget = Budget::bytes(free.problem.least_bytes() * 3 / 2);
    let loss = |p: &PlanningProblem| solve(&p.problem, &budget).unwrap().selection;
    let (a, b) = (loss(&free), loss(&tied));
    assert!(a.loss <= b.loss);
    let plan = plan_of(&tied, &b);
    for modules in &tied.modules {
        assert!(modules.iter().all(|m| plan.scheme(m) == plan.scheme(&modules[0])));
    }
    assert!(tied.modules.iter().any(|m| m.len() == 3) && tied.modules.iter().any(|m| m.len() == 2));
}

/// The plan as a whole, quantized for real, against the uniform plan of its size.
#[test]
fn the_plan_beats_the_uniform_plan_of_the_same_size() {
    let problem = problem(Tie::None);
    let n = problem.problem.units().len();
    let uniform = problem.problem.selection(vec![1; n]).unwrap();
    let budget = Budget::bytes(uniform.bytes);
    assert_eq!(best_uniform(&problem.problem, &budget).unwrap(), uniform);
    let best = solve(&problem.problem, &budget).unwrap().selection;
    assert!(best.bytes <= uniform.bytes && best.loss < uniform.loss);
    let plans = [plan_of(&problem, &best), plan_of(&problem, &uniform)];
    let demo = demo();
    let mut job = |plan, out: &Path| {
        let mut job = Job::new(demo.folder.path(), out, plan, container());
        job.method = gptq();
        job.calibration = Some(demo.calibration.clone());
        job
    };
    let runs =
        compare_plans(demo.folder.path(), &plans, &mut job, &demo.held_out, 256, &mut Silent);
    let runs = runs.unwrap();
    let pair = runs[0].against(&runs[1]).unwrap();
    let interval = pair.interval.unwrap();
    assert!(pair.reduction > 0.05 && interval.low > 0.0, "{pair:?}");
    assert!(interval.contains(pair.reduction) && pair.difference.value < 0.0);
    assert!(runs[0].report.bytes_after <= runs[1].report.bytes_after);
    assert!(runs[0].perplexity > 1.0 && (0.0..=1.0).contains(&runs[0].top1_agreement));
}

#[test]
fn a_plan_is_read_back_and_what_is_wrong_with_it_is_named() {
    let problem = problem(Tie::None);
    let best = solve(&problem.problem, &Budget::default()).unwrap().selection;
    let file = PlanFile::new(measured(), &problem, &best, "demo", "gptq_v2", "gptq");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    file.write(&path).unwrap();
    assert_eq!(PlanFile::read(&path).unwrap(), file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"model.layers.0.self_attn.q_proj\": \"float\""), "{text}");

    let model = Checkpoint::open_with(demo().folder.path(), Access::Positioned).unwrap();
    let edited = |from: &str, to: &str| {
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        PlanFile::read(&path)
    };
    let check = |file: &PlanFile, any| {
        file.plan(&path).and_then(|_| file.check_model(&path, &model, &measured().model, any))
    };
    check(&edited("\"float\"", "\"int8-g64\"").unwrap(), false).unwrap();
    let error = check(&edited("\"float\"", "\"int7\"").unwrap(), false).unwrap_err();
    assert!(
        matches!(error, SensitivityError::UnknownGrid { ref grid, .. } if grid == "int7"),
        "{error}"
    );
    let error =
        check(&edited("layers.0.self_attn.q_proj", "layers.9.q").unwrap(), false).unwrap_err();
    assert!(matches!(error, SensitivityError::UnknownModule { .. }), "{error}");
    let other = edited(&measured().model, "0").unwrap();
    assert!(matches!(check(&other, false), Err(SensitivityError::OtherModel { .. })));
    check(&other, true).unwrap();
    let twice = edited("self_attn.k_proj", "self_attn.q_proj").unwrap_err().to_string();
    assert!(twice.contains("named twice"), "{twice}");
    assert!(matches!(edited("{", "["), Err(SensitivityError::NotAPlan { .. })));
    assert!(PlanFile::read(&folder.path().join("none.json")).is_err());
    // Shapes and what the container carries are the job's to check.
    let odd = edited("\"float\"", "\"int4-g96\"").unwrap().plan(&path).unwrap();
    let job = Job::new(demo().folder.path(), folder.path().join("out"), odd, container());
    let error = job.prepare(&mut Silent).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj") && error.contains("96"), "{error}");
}

/// The program, which `cargo test` builds beside the tests.
fn program(name: &str, args: &[&str]) -> Output {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    Command::new(path).args(args).output().unwrap()
}

#[test]
fn the_program_plans_the_demo_model_and_refuses_the_impossible() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("plan.json");
    let out = out.to_str().unwrap();
    let few = ["--window", "128", "--measure-windows", "4", "--probe-tokens", "200", "--out", out];
    let run = |more: &[&str]| {
        let output = program("plan", &[&few[..], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let grids = "int2-g64,int4-g64,int8-g64";
    let (code, said, error) = run(&["--no-verify", "--grids", grids, "--budget", "3.5bpw"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("kurtosis") && said.contains("bits per weight"), "{said}");
    let plan = PlanFile::read(Path::new(out)).unwrap();
    assert!(plan.bits_per_weight <= 3.5 && plan.bits_per_weight > 3.2, "{}", plan.bits_per_weight);
    let names: Vec<String> =
        grids.split(',').map(|name| grid_name(&grid_of_name(name).unwrap())).collect();
    assert!(plan.modules.iter().all(|(_, grid)| names.contains(grid)));
    for figure in ["plan.sensitivity.svg", "plan.frontier.svg"] {
        let svg = fs::read_to_string(folder.path().join(figure)).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{figure}");
    }
    let refused = |budget: &str| {
        let (code, _, error) = run(&["--no-verify", "--grids", grids, "--budget", budget]);
        assert_eq!(code, Some(1), "{budget}");
        error
    };
    assert!(refused("1bpw").contains("the smallest plan takes"));
    assert!(refused("1kB").contains("embedding, head and norms alone"));
    assert!(refused("4cats").contains("is no budget"));
    assert!(refused("0bpw").contains("positive"));
}
