//! The models that are compared.

use std::{fs, path::PathBuf};

use anyhow::{Result, bail};
use fewbit::{
    checkpoint::{Access, Checkpoint, Container, Gptq, GptqVersion},
    format::{Bits, IntScheme, Plan, ScaleType, Scheme, Symmetry},
    pipeline::{Calibration, Job, weight_dtype},
};

use crate::{
    args::{Args, MethodArg},
    source::{Data, Source},
    support::{bar::Bar, duration},
};

/// A model in floats, or by a method on a calibration set.
pub struct Contestant {
    /// `None` for floats.
    pub method: Option<MethodArg>,
    /// Index of its calibration set, if it has one.
    pub calibration: Option<usize>,
    pub folder: PathBuf,
    /// Names its files.
    pub slug: String,
}

/// The floats, then each method on each set. What an earlier run of the same settings wrote is used again.
pub fn all(args: &Args, data: &Data, source: &Source) -> Result<Vec<Contestant>> {
    let mut contestants = vec![Contestant {
        method: None,
        calibration: None,
        folder: source.folder.clone(),
        slug: "floats".into(),
    }];
    let model = Checkpoint::open_with(&source.folder, Access::Positioned)?;
    let mut scheme = IntScheme {
        bits: Bits::try_from(args.bits)?,
        symmetry: Symmetry::Affine,
        granularity: args.granularity()?,
        scale_type: ScaleType::F16,
    };
    let container = Gptq { version: GptqVersion::portable([scheme].iter()) };
    scheme.scale_type = container.scale_type(weight_dtype(&model, &source.config));
    let plan = Plan::uniform(Scheme::Int(scheme));
    for &method in &args.methods {
        let needs_text = method.method().needs_calibration();
        for (set, (set_name, _)) in data.calibration.iter().enumerate() {
            if set > 0 && !needs_text {
                continue;
            }
            let slug = match needs_text {
                true => format!("{}-{}b-{set_name}", method.name().to_lowercase(), args.bits),
                false => format!("{}-{}b", method.name().to_lowercase(), args.bits),
            };
            let folder = source.out.join(&slug);
            let record = source.out.join(format!("{slug}.txt"));
            let settings = format!(
                "{scheme:?} {:?} {} windows of {}, {} documents of {}",
                method.method(),
                args.windows(),
                args.window,
                data.calibration[set].1.len(),
                source.folder.display(),
            );
            if folder.is_dir() {
                if !fs::read_to_string(&record).is_ok_and(|found| found == settings) {
                    bail!(
                        "{} was made with other settings: choose another --out or remove it",
                        folder.display()
                    );
                }
            } else {
                let mut job = Job::new(&source.folder, &folder, plan.clone(), container);
                job.method = method.method();
                if needs_text {
                    let documents = &source.calibration[set];
                    job.calibration =
                        Some(Calibration::from_documents(documents, args.window, args.windows())?);
                }
                fs::write(&record, &settings)?;
                let mut bar = Bar::new();
                let report = job.prepare(&mut bar)?.run(&mut bar)?;
                bar.finish();
                println!("quantized  {:24} {}", slug, duration(report.seconds));
            }
            let calibration = needs_text.then_some(set);
            contestants.push(Contestant { method: Some(method), calibration, folder, slug });
        }
    }
    Ok(contestants)
}
