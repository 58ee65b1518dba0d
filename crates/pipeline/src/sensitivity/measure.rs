//! The one pass through the blocks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{Access, Checkpoint, Container, write_atomically};
use fewbit_format::{MatrixShape, Scheme};
use fewbit_gptq::Hessian;
use fewbit_model::{Block, ModelConfig, Role, Site};
use fewbit_planner::{
    factors_from_sums,
    importance::{InputStatistics, WeightStatistics},
};

use super::{
    BlockSensitivity, MatrixSensitivity, Probe, Sensitivities, SensitivityError, grid_name,
    probes::{Probes, RoundedBlock, Target},
    rounding::{Rounder, sample_rows},
};
use crate::{
    Calibration, Event, Method, Phase, PipelineError, Progress,
    fingerprint::{check_and_hash, hash_bytes},
    job::cancelled,
    stages::States,
};

/// What to measure, and on what.
#[derive(Clone, Debug)]
pub struct SensitivitySpec<'a> {
    /// The grids to choose from. Those that the container refuses for a matrix are left out there.
    pub grids: Vec<Scheme>,
    /// The grids under which errors are traced to the outputs of the model, one or two: near what the plan will take.
    pub probe_grids: Vec<Scheme>,
    /// How codes are chosen.
    pub method: Method,
    /// What the result will be stored in.
    pub container: &'a dyn Container,
    /// Text whose inputs decide how errors count.
    pub calibration: &'a Calibration,
    /// Documents on which outputs are compared. Their hidden states are held once for each probe.
    pub probes: &'a [Vec<u32>],
    /// Most rows of a matrix that are rounded to learn its error under a grid.
    pub rows: usize,
    /// Most matrices of which each is probed by itself; of a larger model, blocks and roles are, and the matrices follow from these.
    pub probe_each: usize,
    /// Where results are kept; `None` for nowhere.
    pub cache: Option<PathBuf>,
}

impl<'a> SensitivitySpec<'a> {
    /// With the usual settings.
    pub fn new(
        grids: Vec<Scheme>,
        method: Method,
        container: &'a dyn Container,
        calibration: &'a Calibration,
        probes: &'a [Vec<u32>],
    ) -> Self {
        let probe_grids = grids.iter().copied().filter(|g| *g != Scheme::Float).take(2).collect();
        let (rows, probe_each) = (256, 128);
        let cache = None;
        Self { grids, probe_grids, method, container, calibration, probes, rows, probe_each, cache }
    }

    fn settings(&self) -> String {
        let tokens = hash_bytes(bytemuck::cast_slice(self.calibration.tokens()));
        let probes: Vec<u32> =
            self.probes.iter().flat_map(|d| [&d[..], &[u32::MAX]].concat()).collect();
        let probes = hash_bytes(bytemuck::cast_slice(&probes));
        let (method, container) = (&self.method, self.container);
        let (window, rows) = (self.calibration.window(), self.rows);
        let text = format!(
            "{method:?} {container:?} {window} {tokens} {probes} {rows} {}",
            self.probe_each
        );
        hash_bytes(text.as_bytes())
    }
}

/// Hash of configuration, names, types, shapes and bytes of a model, by which plans know it. Reads every tensor and refuses values that are not
/// finite.
///
/// # Errors
/// If a tensor cannot be read, or holds NaN or infinity.
pub fn model_fingerprint(
    model: &Checkpoint,
    progress: &mut dyn Progress,
) -> Result<String, PipelineError> {
    check_and_hash(model, progress, |p| cancelled(p, Path::new("")))
}

/// Measures how much the model loses by each grid for each matrix.
///
/// With a cache, what an earlier measurement of the same model, method and texts found is not measured again; a cache of another is overwritten.
///
/// # Errors
/// If the model cannot be read, the text does not suit it, or the caller cancels. What is finished stays in the cache.
pub fn measure(
    folder: &Path,
    spec: &SensitivitySpec<'_>,
    progress: &mut dyn Progress,
) -> Result<Sensitivities, SensitivityError> {
    if spec.grids.iter().all(|g| *g == Scheme::Float) || spec.probe_grids.is_empty() {
        return Err(SensitivityError::NoGrids);
    }
    let model = Checkpoint::open_with(folder, Access::Positioned).map_err(PipelineError::from)?;
    let config = ModelConfig::of(&model).map_err(PipelineError::from)?;
    let fingerprint = model_fingerprint(&model, progress)?;
    let fresh = Sensitivities {
        version: env!("CARGO_PKG_VERSION").into(),
        model: fingerprint,
        settings: spec.settings(),
        blocks: Vec::new(),
        together: BTreeMap::new(),
        complete: false,
    };
    let known = spec.cache.as_deref().and_then(|path| read(path, &fresh)).unwrap_or(fresh);
    let pass = Pass { model, config, spec };
    if known.complete && pass.has_all(&known) {
        return Ok(known);
    }
    pass.run(known, progress)
}

/// Earlier results, if they are of the same model and settings.
fn read(path: &Path, fresh: &Sensitivities) -> Option<Sensitivities> {
    let found: Sensitivities = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let same = |s: &Sensitivities| (s.version.clone(), s.model.clone(), s.settings.clone());
    (same(&found) == same(fresh)).then_some(found)
}

struct Pass<'a> {
    model: Checkpoint,
    config: ModelConfig,
    spec: &'a SensitivitySpec<'a>,
}

impl Pass<'_> {
    /// Whether nothing that was asked for is missing.
    fn has_all(&self, known: &Sensitivities) -> bool {
        let probed = |m: &MatrixSensitivity, grid: &Scheme| {
            m.probes.iter().any(|p| p.grid == grid_name(grid))
                || !self.fits(&m.module, m.shape(), grid)
        };
        known.matrices().all(|m| {
            let has = |g: &Scheme| {
                m.errors.contains_key(&grid_name(g)) || !self.fits(&m.module, m.shape(), g)
            };
            self.spec.grids.iter().all(has) && self.spec.probe_grids.iter().all(|g| probed(m, g))
        })
    }

    /// Whether a matrix can take a grid.
    fn fits(&self, module: &str, shape: MatrixShape, grid: &Scheme) -> bool {
        *grid != Scheme::Float && self.spec.container.check(module, shape, grid, false).is_ok()
    }

    fn run(
        &self,
        mut known: Sensitivities,
        progress: &mut dyn Progress,
    ) -> Result<Sensitivities, SensitivityError> {
        progress.event(Event::Phase(Phase::Measure));
        let n_blocks = self.config.n_layers;
        let windows: Vec<&[u32]> = self.spec.calibration.windows().collect();
        let mut states = States::embed(&self.model, &self.config, &windows)?;
        let targets = Target::needed(&self.config, self.spec.probe_each);
        let n_grids = self.spec.probe_grids.len();
        let mut probes =
            Probes::new(&self.model, &self.config, self.spec.probes, &targets, n_grids)?;
        let mut probe_errors = vec![Vec::new(); n_grids];
        for number in 0..n_blocks {
            progress.event(Event::Block { block: number, n_blocks });
            let block =
                Block::load(&self.model, &self.config, number).map_err(PipelineError::from)?;
            let before = known.blocks.get(number).cloned();
            let mut matrices = Vec::new();
            let mut rounded: Vec<RoundedBlock> = vec![Vec::new(); n_grids];
            for (step, &(site, roles)) in self.config.groups().iter().enumerate() {
                cancelled(progress, self.spec.cache.as_deref().unwrap_or(Path::new("")))?;
                let hessian = self.hessian(&mut states, &block, site, roles)?;
                let module = self.config.module(number, roles[0]);
                let (method, container) = (&self.spec.method, self.spec.container);
                let rounder = Rounder::new(&hessian, method, container, &module)?;
                let inputs = InputStatistics::of_mean_squares(&hessian.diagonal());
                for &role in roles {
                    let module = self.config.module(number, role);
                    progress.event(Event::Matrix { module: &module });
                    let earlier = before
                        .as_ref()
                        .and_then(|b| b.matrices.iter().find(|m| m.module == module));
                    let (matrix, probed) =
                        self.matrix(&block, role, step, inputs, &rounder, earlier)?;
                    for (grid, (values, error)) in probed.into_iter().enumerate() {
                        rounded[grid].push((role, values));
                        probe_errors[grid].push(error);
                    }
                    matrices.push(matrix);
                }
                states.advance(&block, site);
                let fraction = (4 * number + step + 1) as f64 / (4 * n_blocks + 1) as f64;
                progress.event(Event::Advanced { fraction });
            }
            let influence = probes.forward(&block, &rounded).value();
            let measured = BlockSensitivity { influence, matrices };
            match known.blocks.get_mut(number) {
                Some(place) => *place = measured,
                None => known.blocks.push(measured),
            }
            self.store(&known)?;
        }
        let divergences = probes.divergences(&self.model, &self.config)?;
        self.add_probes(&mut known, &divergences, &probe_errors)?;
        known.complete = true;
        self.store(&known)?;
        progress.event(Event::Advanced { fraction: 1.0 });
        Ok(known)
    }

    fn hessian(
        &self,
        states: &mut States,
        block: &Block,
        site: Site,
        roles: &[Role],
    ) -> Result<Hessian, PipelineError> {
        let spec = self.spec.method.gptq_spec().unwrap_or_default();
        let mut hessian =
            Hessian::with_inputs(self.config.shape(roles[0]).in_features, spec.inputs);
        for chunk in 0..states.n_chunks() {
            let x = states.input(chunk, block, site);
            hessian.add(x.as_slice().expect("standard layout")).map_err(|source| {
                let module = self.config.module(block.layer(), roles[0]);
                PipelineError::Gptq { module, source }
            })?;
            states.release(chunk, site);
        }
        Ok(hessian)
    }

    /// The errors of a matrix under each grid, and its values and errors under each probe grid.
    fn matrix(
        &self,
        block: &Block,
        role: Role,
        site: usize,
        inputs: InputStatistics,
        rounder: &Rounder<'_>,
        earlier: Option<&MatrixSensitivity>,
    ) -> Result<(MatrixSensitivity, Vec<Rounded>), PipelineError> {
        let module = block.module(role);
        let shape = self.config.shape(role);
        let name = format!("{module}.weight");
        let weight = self.config.weight_f32(&self.model, block.layer(), role)?;
        let mut errors = earlier.map(|m| m.errors.clone()).unwrap_or_default();
        let mut probed = Vec::new();
        for grid in &self.spec.probe_grids {
            if !self.fits(module, shape, grid) {
                probed.push((None, 0.0));
                continue;
            }
            let values = rounder.round(module, &weight, shape, *grid)?;
            let error = rounder.output_error(&weight, &values);
            errors.insert(grid_name(grid), error);
            probed.push((Some(values), error));
        }
        for grid in &self.spec.grids {
            if errors.contains_key(&grid_name(grid)) || !self.fits(module, shape, grid) {
                continue;
            }
            let (rows, sampled) = sample_rows(&weight, shape, grid, self.spec.rows);
            let values = rounder.round(module, &rows, sampled, *grid)?;
            errors.insert(grid_name(grid), rounder.output_error(&rows, &values));
        }
        let matrix = MatrixSensitivity {
            module: module.into(),
            block: block.layer(),
            role: module.rsplit('.').next().unwrap_or(module).into(),
            site,
            out_features: shape.out_features,
            in_features: shape.in_features,
            float_bytes: self.model.tensor(&name).map_or(0, |t| t.bytes),
            weights: WeightStatistics::of(&weight),
            inputs,
            errors,
            probes: earlier.map(|m| m.probes.clone()).unwrap_or_default(),
        };
        Ok((matrix, probed))
    }

    /// Gives each matrix what its errors cost: measured, or by the factors of its block and its role.
    fn add_probes(
        &self,
        known: &mut Sensitivities,
        divergences: &[(Target, usize, f64)],
        errors: &[Vec<f64>],
    ) -> Result<(), SensitivityError> {
        let n_roles = self.config.roles().count();
        let place = |role: Role| {
            self.config.roles().position(|r| r == role).expect("a role of this architecture")
        };
        for (number, (grid, errors)) in self.spec.probe_grids.iter().zip(errors).enumerate() {
            let name = grid_name(grid);
            let (mut each, mut blocks, mut roles) =
                (vec![None; errors.len()], Vec::new(), vec![0.0; n_roles]);
            for (target, _, kl) in divergences.iter().filter(|(_, g, _)| *g == number) {
                match *target {
                    Target::Matrix(block, role) => each[block * n_roles + place(role)] = Some(*kl),
                    Target::Block(_) => blocks.push(*kl),
                    Target::Role(role) => roles[place(role)] = *kl,
                    Target::All => drop(known.together.insert(name.clone(), *kl)),
                }
            }
            if !blocks.is_empty() {
                let factors = factors_from_sums(errors, &blocks, &roles)?;
                each = factors.iter().zip(errors).map(|(f, e)| Some(f * e)).collect();
            }
            let matrices = known.blocks.iter_mut().flat_map(|b| &mut b.matrices);
            for ((m, kl), &error) in matrices.zip(each).zip(errors) {
                let Some(kl) = kl.filter(|_| m.errors.contains_key(&name)) else { continue };
                m.probes.retain(|p| p.grid != name);
                m.probes.push(Probe { grid: name.clone(), error, kl });
                m.probes.sort_by(|a, b| a.error.total_cmp(&b.error));
            }
        }
        Ok(())
    }

    fn store(&self, known: &Sensitivities) -> Result<(), PipelineError> {
        if let Some(path) = &self.spec.cache {
            let json = serde_json::to_vec_pretty(known).expect("numbers and names serialize");
            write_atomically(path, &json)?;
        }
        Ok(())
    }
}

/// Values of a matrix on a grid, if it fits, and their output error.
type Rounded = (Option<Vec<f32>>, f64);
