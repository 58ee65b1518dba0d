//! What is to be done, from the command line.

use std::path::PathBuf;

use anyhow::Result;
use fewbit::{
    checkpoint::{
        Access, Awq, BitsAndBytes, Checkpoint, CompressedTensors, Container, FolderWriter, Fp8,
        Gptq, GptqVersion, InputRounding, IntLayout, Mlx, Onnx,
        gguf::ImportanceMatrix,
        gguf_model::{GgufContainer, Hparams, Mix},
    },
    format::{
        Bits, CodebookScheme, Float8Scheme, Granularity, IntScheme, OffsetScheme, Plan, ScaleType,
        Scheme, Symmetry,
    },
    gptq::{FitFrom, GptqSpec, Groups, Order},
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
    args::{ActOrder, Args, ContainerArg, MethodArg},
    support::grid::for_folder,
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
    match container_arg(args) {
        ContainerArg::Gguf => ".gguf",
        ContainerArg::Onnx => ".onnx",
        _ => "",
    }
}

/// As asked for, or the one that the grid is at home in.
fn container_arg(args: &Args) -> ContainerArg {
    if let Some(container) = args.container {
        return container;
    }
    let planned = args.plan.as_ref().and_then(|path| PlanFile::read(path).ok());
    match planned.as_ref().map(|plan| plan.container.as_str()) {
        Some("gguf") => return ContainerArg::Gguf,
        Some("gptq_v2") => return ContainerArg::GptqV2,
        Some("compressed-tensors") => return ContainerArg::CompressedTensors,
        Some("mlx") => return ContainerArg::Mlx,
        Some("onnx") => return ContainerArg::Onnx,
        _ => {}
    }
    match args.grid {
        _ if args.mix.is_some() => ContainerArg::Gguf,
        None if args.method == MethodArg::Smoothquant => ContainerArg::W8a8,
        None | Some(Scheme::Int(_)) => ContainerArg::Gptq,
        Some(Scheme::Offset(_)) => ContainerArg::Mlx,
        Some(Scheme::Block(_)) => ContainerArg::Gguf,
        Some(Scheme::Codebook(_) | Scheme::LlmInt8) => ContainerArg::Bitsandbytes,
        Some(_) => ContainerArg::CompressedTensors,
    }
}

/// The integer grid of the options.
fn integers(args: &Args, scale_type: ScaleType) -> Result<IntScheme> {
    if let Some(Scheme::Int(scheme)) = args.grid {
        return Ok(IntScheme { scale_type, ..scheme });
    }
    if args.method == MethodArg::Smoothquant {
        // What engines multiply with inputs of 8 bits.
        let (bits, symmetry) = (Bits::B8, Symmetry::Symmetric);
        return Ok(IntScheme { bits, symmetry, granularity: Granularity::Channel, scale_type });
    }
    let symmetry = if args.symmetric { Symmetry::Symmetric } else { Symmetry::Affine };
    let bits = Bits::try_from(args.bits)?;
    Ok(IntScheme { bits, symmetry, granularity: args.group_size, scale_type })
}

fn container(args: &Args) -> Result<Box<dyn Container>> {
    Ok(match container_arg(args) {
        ContainerArg::Gptq => {
            let scheme = integers(args, ScaleType::F16)?;
            Box::new(Gptq { version: GptqVersion::portable([scheme].iter()) })
        }
        ContainerArg::GptqV1 => Box::new(Gptq { version: GptqVersion::V1 }),
        ContainerArg::GptqV2 => Box::new(Gptq { version: GptqVersion::V2 }),
        ContainerArg::CompressedTensors => Box::new(CompressedTensors::default()),
        ContainerArg::CompressedTensorsBytes => Box::new(CompressedTensors {
            integers: IntLayout::Bytes,
            ..CompressedTensors::default()
        }),
        ContainerArg::CompressedTensorsNaive => Box::new(CompressedTensors {
            integers: IntLayout::Naive,
            ..CompressedTensors::default()
        }),
        ContainerArg::W8a8 => Box::new(CompressedTensors {
            integers: IntLayout::Bytes,
            inputs: InputRounding::Int8PerToken,
        }),
        ContainerArg::Awq => Box::new(Awq),
        ContainerArg::Bitsandbytes => Box::new(BitsAndBytes),
        ContainerArg::Fp8 => Box::new(Fp8),
        ContainerArg::Gguf => Box::new(GgufContainer { file_type: args.mix, split_bytes: None }),
        ContainerArg::Mlx => Box::new(Mlx),
        ContainerArg::Onnx => Box::new(Onnx),
    })
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
    let scheme = match args.grid {
        Some(Scheme::Offset(scheme)) => {
            Scheme::Offset(OffsetScheme { value_type: scale_type, ..scheme })
        }
        None | Some(Scheme::Int(_)) => for_container(args, integers(args, scale_type)?),
        Some(Scheme::Block(block_type)) if writes_gguf(args) => Scheme::Block(block_type),
        Some(Scheme::Codebook(scheme)) => {
            Scheme::Codebook(CodebookScheme { value_type: scale_type, ..scheme })
        }
        Some(Scheme::Float8(scheme)) => Scheme::Float8(Float8Scheme { scale_type, ..scheme }),
        Some(other) => for_folder(other),
    };
    Ok(Plan::uniform(scheme))
}

/// Integers as the container stores them: MLX has offsets where others have zero points.
fn for_container(args: &Args, scheme: IntScheme) -> Scheme {
    let IntScheme { bits, symmetry, granularity, scale_type } = scheme;
    match (container_arg(args), symmetry, granularity) {
        (ContainerArg::Mlx, Symmetry::Affine, Granularity::Group(group_size)) => {
            Scheme::Offset(OffsetScheme { bits, group_size, value_type: scale_type })
        }
        _ => Scheme::Int(scheme),
    }
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
