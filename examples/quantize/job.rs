//! What is to be done, from the command line.

use std::path::PathBuf;

use anyhow::Result;
use fewbit::{
    checkpoint::{
        Access, Checkpoint, Container, FolderWriter,
        gguf::ImportanceMatrix,
        gguf_model::{Hparams, Mix},
    },
    format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry},
    gptq::{FitFrom, GptqSpec, Groups, InputPrecision, Order},
    model::ModelConfig,
    pipeline::{
        AwqSpec, Calibration, HqqSpec, ImportanceSource, Job, Method, Prepared, Progress, Resume,
        Rounding, SmoothQuantSpec, Transform, importance_matrix, importance_of_matrix,
        sensitivity::{PlanFile, model_fingerprint},
        weight_dtype,
    },
};

use crate::{
    Source,
    args::{ActOrder, Args, HessianInputs, MethodArg},
    support::container::ContainerArg,
};

/// A method that takes part in the choice of the best.
#[derive(Clone, Copy)]
pub struct Contestant {
    pub name: &'static str,
    method: MethodArg,
    mismatch: f32,
}

/// The methods that `--method best` tries: those that have the grid.
pub fn contestants(args: &Args, prepared: &Prepared) -> Vec<Contestant> {
    let of = |name, method, mismatch| Contestant { name, method, mismatch };
    let all = [
        of("gptq", MethodArg::Gptq, 1.0),
        of("gptq, mismatch 0.5", MethodArg::Gptq, 0.5),
        of("awq+gptq", MethodArg::AwqGptq, 1.0),
    ];
    let takes = |contestant: &Contestant| {
        let method = method(args, contestant.method, contestant.mismatch);
        let layers = prepared.modules().iter().filter(|m| m.role.is_some());
        layers.map(|m| &m.scheme).all(|s| method.takes(&s.scheme, s.shape))
    };
    let sound: Vec<_> = all.into_iter().filter(takes).collect();
    match sound.is_empty() {
        true => vec![of("rtn", MethodArg::Rtn, 0.0), of("awq", MethodArg::Awq, 0.0)],
        false => sound,
    }
}

/// The job that the arguments name; of the best method, plain rounding stands for what is chosen later.
pub fn job(args: &Args, source: &Source, progress: &mut dyn Progress) -> Result<Job> {
    let method = if args.method == MethodArg::Best { MethodArg::Rtn } else { args.method };
    job_of(args, source, method, args.mismatch.unwrap_or(1.0), progress)
}

/// A job of the choice of the best.
pub fn contest_job(
    args: &Args,
    source: &Source,
    contestant: Contestant,
    out: PathBuf,
    progress: &mut dyn Progress,
) -> Result<Job> {
    let job = job_of(args, source, contestant.method, contestant.mismatch, progress)?;
    Ok(Job { out, resume: Resume::Auto, ..job })
}

fn job_of(
    args: &Args,
    source: &Source,
    kind: MethodArg,
    mismatch: f32,
    progress: &mut dyn Progress,
) -> Result<Job> {
    let model = Checkpoint::open_with(&source.start, Access::Positioned)?;
    let container = container(args)?;
    let calibration = match source.calibration.is_empty() {
        true => None,
        false => {
            Some(Calibration::from_documents(&source.calibration, source.window, args.windows)?)
        }
    };
    let method = method(args, kind, mismatch);
    let (importance, calibration) = match kind {
        MethodArg::Rtn | MethodArg::Hqq => match importance(args, &model, calibration.is_some())? {
            Some(ImportanceSource::Measured) => (Some(ImportanceSource::Measured), calibration),
            other => (other, None),
        },
        _ => (None, calibration),
    };
    Ok(Job {
        model: source.start.clone(),
        out: source.out.clone(),
        work: None,
        plan: match &args.plan {
            Some(path) => {
                let file = PlanFile::read(path)?;
                let fingerprint = model_fingerprint(&model, progress)?;
                file.check_model(path, &model, &fingerprint, args.any_model)?;
                file.plan(path)?
            }
            None => plan(args, &model, &*container, importance.is_some())?,
        },
        method,
        container,
        calibration,
        importance,
        resume: if args.resume { Resume::Require } else { Resume::Auto },
        strict: args.strict,
        shard_bytes: FolderWriter::SHARD_BYTES,
    })
}

/// Whether the output is to be one GGUF file.
pub fn writes_gguf(args: &Args) -> bool {
    container_arg(args) == ContainerArg::Gguf
}

/// The ending of an output that is one file.
pub fn ending(args: &Args) -> &'static str {
    container_arg(args).ending()
}

/// As asked for, or as the plan has it, or the one that the grid is at home in.
fn container_arg(args: &Args) -> ContainerArg {
    if let Some(container) = args.container {
        return container;
    }
    let planned = args.plan.as_ref().and_then(|path| PlanFile::read(path).ok());
    if let Some(planned) = planned.and_then(|plan| ContainerArg::of_plan(&plan.container)) {
        return planned;
    }
    match args.grid {
        _ if args.mix.is_some() => ContainerArg::Gguf,
        None if args.method == MethodArg::Smoothquant => ContainerArg::W8a8,
        None => ContainerArg::Gptq,
        Some(scheme) => ContainerArg::home(&scheme),
    }
}

/// The grid of the options.
fn grid(args: &Args) -> Result<Scheme> {
    if let Some(scheme) = args.grid {
        return Ok(scheme);
    }
    let scale_type = ScaleType::F16;
    if args.method == MethodArg::Smoothquant {
        // What engines multiply with inputs of 8 bits.
        let (bits, symmetry) = (Bits::B8, Symmetry::Symmetric);
        let granularity = Granularity::Channel;
        return Ok(Scheme::Int(IntScheme { bits, symmetry, granularity, scale_type }));
    }
    let symmetry = if args.symmetric { Symmetry::Symmetric } else { Symmetry::Affine };
    let bits = Bits::try_from(args.bits)?;
    Ok(Scheme::Int(IntScheme { bits, symmetry, granularity: args.group_size, scale_type }))
}

fn container(args: &Args) -> Result<Box<dyn Container>> {
    Ok(container_arg(args).container(&grid(args)?, args.mix))
}

fn method(args: &Args, kind: MethodArg, mismatch: f32) -> Method {
    let usual = match kind {
        MethodArg::AwqGptq => AwqSpec::before_gptq(),
        _ => AwqSpec::default(),
    };
    let awq = AwqSpec {
        n_ratios: args.ratios.unwrap_or(usual.n_ratios),
        tokens: args.search_tokens,
        ..usual
    };
    let smoothquant = SmoothQuantSpec { strength: args.strength, tokens: args.search_tokens };
    Method {
        transform: match kind {
            MethodArg::Best | MethodArg::Rtn | MethodArg::Hqq | MethodArg::Gptq => Transform::None,
            MethodArg::Awq | MethodArg::AwqGptq => Transform::Awq(awq),
            MethodArg::Smoothquant => Transform::SmoothQuant(smoothquant),
        },
        rounding: match kind {
            MethodArg::Best | MethodArg::Rtn | MethodArg::Awq | MethodArg::Smoothquant => {
                Rounding::Nearest
            }
            MethodArg::Hqq => Rounding::HalfQuadratic(HqqSpec::default()),
            MethodArg::Gptq | MethodArg::AwqGptq => Rounding::Gptq { spec: spec(args), mismatch },
        },
    }
}

fn spec(args: &Args) -> GptqSpec {
    let (order, groups) = match args.act_order {
        ActOrder::Static => (Order::ActOrder, Groups::Static),
        ActOrder::Ordered => (Order::ActOrder, Groups::Ordered),
        ActOrder::Off => (Order::Natural, Groups::Static),
    };
    GptqSpec {
        order,
        groups,
        fit: FitFrom::Original,
        damping: args.damping,
        inputs: match args.hessian_inputs {
            HessianInputs::F32 => InputPrecision::F32,
            HessianInputs::Bf16 => InputPrecision::BF16,
        },
        refine_passes: args.refine,
    }
}

fn plan(
    args: &Args,
    model: &Checkpoint,
    container: &dyn Container,
    importance: bool,
) -> Result<Plan> {
    if let Some(file_type) = args.mix {
        let hparams = Hparams::of_config(model.config())?;
        return Ok(
            Mix::new(file_type, &hparams, importance).plan(&hparams.names(), model.tensors())
        );
    }
    let config = ModelConfig::of(model)?;
    let scale_type = container.scale_type(weight_dtype(model, &config));
    Ok(Plan::uniform(container_arg(args).stored(grid(args)?, scale_type)))
}

/// Read, or to be measured where there is text and somebody who has use for it.
fn importance(
    args: &Args,
    model: &Checkpoint,
    calibrated: bool,
) -> Result<Option<ImportanceSource>> {
    if let Some(path) = &args.imatrix {
        let importance = importance_of_matrix(&ImportanceMatrix::read(path)?, model)?;
        return Ok(Some(ImportanceSource::Given(importance)));
    }
    let wanted = writes_gguf(args) || args.save_imatrix.is_some();
    Ok((calibrated && wanted).then_some(ImportanceSource::Measured))
}

/// Writes the importances that were measured, if that is asked for.
pub fn save_importance(
    args: &Args,
    prepared: &mut Prepared,
    progress: &mut dyn Progress,
) -> Result<()> {
    let Some(path) = &args.save_imatrix else { return Ok(()) };
    let name = args.calibration.as_ref().map_or("demo".into(), |p| p.display().to_string());
    let Some(importance) = prepared.importance(progress)?.cloned() else { return Ok(()) };
    let Some(calibration) = prepared.calibration() else { return Ok(()) };
    let model = Checkpoint::open_with(prepared.model_folder(), Access::Positioned)?;
    importance_matrix(&importance, &model, calibration, &name)?.write_gguf(path)?;
    Ok(())
}
