//! How each matrix gets its bits.

use std::{fs, num::NonZeroU32, path::PathBuf};

use anyhow::{Context, Result};
use fewbit::{
    checkpoint::CompressedTensors,
    format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry},
    gptq::GptqSpec,
    pipeline::{
        Calibration, Job, Method,
        sensitivity::{Sensitivities, SensitivitySpec, Tie, measure},
    },
    planner::{Budget, Selection, Tier, pareto, solve, tiers},
};

use crate::{
    Args, Source,
    support::{bar::Bar, duration},
};

/// A way to spend bits.
pub struct Policy {
    pub name: &'static str,
    pub plan: Plan,
    pub method: Method,
    /// Bits of a weight of the blocks, scales included.
    pub bits_per_weight: f64,
}

/// Names of the policies that conclusions speak of.
pub const FLOAT: &str = "FP32";
pub const EIGHT: &str = "8 bits";
pub const FOUR: &str = "4 bits";
pub const ADAPTIVE: &str = "adaptive 30/30/40";
pub const FOUR_GPTQ: &str = "4 bits, GPTQ";
pub const PLAN_SMALL: &str = "planner, bytes of 4 bits";
pub const PLAN_GOOD: &str = "planner, loss of adaptive";

/// The policies of the study as it was, rounded plainly, and ours.
pub fn all(args: &Args, source: &Source) -> Result<Vec<Policy>> {
    let scheme = |bits, symmetry| {
        let size = NonZeroU32::new(args.group_size).context("--group-size: at least 1")?;
        let granularity = Granularity::group(size.get());
        anyhow::Ok(Scheme::Int(IntScheme {
            bits,
            symmetry,
            granularity,
            scale_type: ScaleType::F32,
        }))
    };
    let (eight, four) =
        (scheme(Bits::B8, Symmetry::Symmetric)?, scheme(Bits::B4, Symmetry::Affine)?);
    let mut grids = vec![Scheme::Float, eight];
    for bits in [Bits::B6, Bits::B5, Bits::B4, Bits::B3] {
        grids.push(scheme(bits, Symmetry::Affine)?);
    }
    let gptq = Method::gptq(GptqSpec::default(), 1.0);
    let mut bar = Bar::new();
    let windows = calibration(source)?;
    let probes: Vec<Vec<u32>> = source
        .calibration
        .iter()
        .rev()
        .take(16)
        .map(|document| document[..document.len().min(source.window)].to_vec())
        .collect();
    let container = CompressedTensors::default();
    let spec = SensitivitySpec {
        probe_grids: vec![scheme(Bits::B3, Symmetry::Affine)?, scheme(Bits::B5, Symmetry::Affine)?],
        cache: Some(args.out.join("measured.json")),
        ..SensitivitySpec::new(grids.clone(), gptq, &container, &windows, &probes)
    };
    let sensitivities = measure(&source.model, &spec, &mut bar)?;
    bar.finish();
    let planning = sensitivities.problem(&grids, &container, Tie::None, None)?;
    let problem = &planning.problem;

    let adaptive = problem.selection(by_importance(&sensitivities, &grids, [eight, four])?)?;
    let uniform = |grid: Scheme| -> Result<Selection> {
        let choice = grids.iter().position(|g| *g == grid).context("a grid of the study")?;
        Ok(problem.selection(vec![choice; problem.units().len()])?)
    };
    let four_bits = uniform(four)?;
    let small = solve(problem, &Budget { bytes: Some(four_bits.bytes), nanoseconds: None })?;
    // The smallest plan that is expected to lose no more than the adaptive one.
    let front = pareto(problem, u64::MAX);
    let good = front
        .points()
        .position(|(_, loss)| loss <= adaptive.loss)
        .map(|index| front.selection(problem, index))
        .context("no plan loses as little as the adaptive one")?;

    let weights: usize = sensitivities.matrices().map(|m| m.shape().len()).sum();
    let policy = |name, selection: &Selection, method| Policy {
        name,
        plan: planning.plan(selection),
        method,
        bits_per_weight: selection.bytes as f64 * 8.0 / weights as f64,
    };
    let plain = Method::nearest();
    Ok(vec![
        policy(FLOAT, &uniform(Scheme::Float)?, plain),
        policy(EIGHT, &uniform(eight)?, plain),
        policy(FOUR, &four_bits, plain),
        policy(ADAPTIVE, &adaptive, plain),
        policy(FOUR_GPTQ, &four_bits, gptq),
        policy(PLAN_SMALL, &small.selection, gptq),
        policy(PLAN_GOOD, &good, gptq),
    ])
}

/// The study's rule. A layer is a linear layer here, and its importance what 4 bits do to its output.
fn by_importance(
    sensitivities: &Sensitivities,
    grids: &[Scheme],
    [eight, four]: [Scheme; 2],
) -> Result<Vec<usize>> {
    let choice = |grid: Scheme| grids.iter().position(|g| *g == grid).unwrap_or(0);
    let rule = [
        Tier { fraction: 0.3, choice: choice(Scheme::Float) },
        Tier { fraction: 0.3, choice: choice(eight) },
        Tier { fraction: 0.4, choice: choice(four) },
    ];
    let importance: Vec<f64> =
        sensitivities.matrices().map(|m| m.loss(&four).unwrap_or(0.0)).collect();
    Ok(tiers(&importance, &rule)?)
}

fn calibration(source: &Source) -> Result<Calibration> {
    Ok(Calibration::from_documents(&source.calibration, source.window, source.windows)?)
}

/// Writes the model of each policy; the first one is there.
pub fn quantize(args: &Args, source: &Source, policies: &[Policy]) -> Result<Vec<PathBuf>> {
    let mut folders = vec![];
    for (number, policy) in policies.iter().enumerate() {
        if policy.name == FLOAT {
            folders.push(source.model.clone());
            continue;
        }
        let slug: String =
            policy.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let out = args.out.join(slug);
        // Plans of an earlier run may differ, so only finished models of the same plan are kept.
        let record = args.out.join(format!("plan-{number}.txt"));
        let plan = format!("{:?} {:?}", policy.plan, policy.method);
        if out.is_dir() && fs::read_to_string(&record).is_ok_and(|found| found == plan) {
            folders.push(out);
            continue;
        }
        let _ = fs::remove_dir_all(&out);
        let mut job =
            Job::new(&source.model, &out, policy.plan.clone(), CompressedTensors::default());
        job.method = policy.method;
        if policy.method.needs_calibration() {
            job.calibration = Some(calibration(source)?);
        }
        let mut bar = Bar::new();
        let report = job.prepare(&mut bar)?.run(&mut bar)?;
        bar.finish();
        println!("quantized  {:26} {}", policy.name, duration(report.seconds));
        fs::write(&record, plan)?;
        folders.push(out);
    }
    Ok(folders)
}
