//! Training of a whole model: from nothing, or in few bits from a float teacher.

use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::{
    Curve, Geometry, Learn, Progress, QatError, Run, Student, Windows, loss,
    param::Param,
    pool::Pool,
    train::{Task, train},
};

/// What a whole model is trained towards.
#[derive(Clone, Copy, Debug)]
pub enum Objective<'a> {
    /// The next token.
    NextToken,
    /// The next token's distribution under a float model: KL(teacher ‖ model).
    Distill(&'a Student),
}

/// Trains a whole model on windows of text; the best state on the held-out windows is left in `student`.
///
/// [`Learn::WEIGHTS`] with a teacher is full quantization-aware training, [`Learn::SCALES`] the second phase of EfficientQAT: step sizes under fixed
/// codes. [`Learn::FLOAT`] with [`Objective::NextToken`] is ordinary training. With `state`, the run is kept in that file and goes on from there, to
/// the same bits as if it had never stopped.
///
/// # Errors
/// For a teacher of another vocabulary, a setting without meaning, a state of another run, a loss that is not finite, and when the caller cancels. The last
/// state stays on disk.
pub fn train_model(
    student: &mut Student,
    learn: Learn,
    objective: Objective<'_>,
    text: &Windows,
    held_out: &Windows,
    run: &Run,
    state: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Curve, QatError> {
    if let Objective::Distill(teacher) = objective {
        check_teacher(student, teacher)?;
    }
    let learns_codes = learn.weights || learn.rounding || learn.zero_points;
    if learn.scales && !learns_codes {
        student.freeze_codes();
    }
    if learn.rounding {
        student.blocks.iter_mut().for_each(crate::TrainBlock::learn_rounding);
    }
    let geometry = Geometry::new(&student.config, text.window())?;
    let checks = held_out.pairs(held_out.spread(run.check_windows));
    let identity = identity(student, learn, objective, text, held_out);
    let mut task = Whole {
        check_geometry: Geometry::new(&student.config, held_out.window())?,
        student,
        learn,
        objective,
        text,
        run,
        geometry,
        checks,
        taught: Vec::new(),
        identity,
        pool: Pool::default(),
    };
    train(&mut task, run, state, progress)
}

fn check_teacher(student: &Student, teacher: &Student) -> Result<(), QatError> {
    let differ = |key, of_teacher: String, of_student: String| match of_teacher == of_student {
        true => Ok(()),
        false => Err(QatError::Teacher { key, teacher: of_teacher, student: of_student }),
    };
    let (t, s) = (&teacher.config, &student.config);
    differ("model_type", t.model_type().into(), s.model_type().into())?;
    differ("vocab_size", t.vocab_size.to_string(), s.vocab_size.to_string())
}

fn identity(
    student: &mut Student,
    learn: Learn,
    objective: Objective<'_>,
    text: &Windows,
    held_out: &Windows,
) -> String {
    let mut hash = Xxh3::new();
    for matrix in student.matrices() {
        hash.update(matrix.scheme_text().as_bytes());
    }
    for adapter in student.adapters() {
        hash.update(bytemuck::cast_slice(&adapter.base().dequantize()));
        hash.update(&adapter.factor().to_le_bytes());
    }
    for param in student.learned(learn) {
        hash.update(bytemuck::cast_slice(param.values));
    }
    for tensor in student.floats() {
        hash.update(bytemuck::cast_slice(&tensor.in_file()));
    }
    let objective = match objective {
        Objective::NextToken => "next token".to_owned(),
        Objective::Distill(teacher) => {
            let mut hash = Xxh3::new();
            for tensor in teacher.floats() {
                hash.update(bytemuck::cast_slice(&tensor.in_file()));
            }
            format!("distillation from {:032x}", hash.digest128())
        }
    };
    let (text, held_out) = (text.hash(), held_out.hash());
    let (model, inputs) = (hash.digest128(), student.inputs_text());
    format!(
        "learned {learn:?}\ninputs {inputs}\nobjective {objective}\nmodel {model:032x}\ntext {text}\nheld out {held_out}"
    )
}

struct Whole<'a> {
    student: &'a mut Student,
    learn: Learn,
    objective: Objective<'a>,
    text: &'a Windows,
    run: &'a Run,
    geometry: Geometry,
    check_geometry: Geometry,
    /// Held-out tokens and their successors.
    checks: (Vec<u32>, Vec<u32>),
    /// The teacher's logits of them, from the first check on.
    taught: Vec<Vec<f32>>,
    identity: String,
    pool: Pool,
}

impl Task for Whole<'_> {
    fn learned(&mut self) -> Vec<Param<'_>> {
        self.student.learned(self.learn)
    }

    fn gradient(&mut self, number: u64) -> (f64, Vec<Vec<f32>>) {
        let numbers = self.text.batch(self.run.seed, number, self.run.batch);
        let (tokens, targets) = self.text.pairs(numbers.iter().copied());
        let vocab_size = self.student.config.vocab_size;
        let (geometry, learn, pool) = (&self.geometry, self.learn, &mut self.pool);
        match self.objective {
            Objective::NextToken => {
                let step = number / self.run.accumulate as u64;
                let share = self.run.optimization.schedule.share(step);
                let weights = self.text.weights(numbers, share);
                let loss =
                    |logits: &mut [f32]| loss::cross_entropy(logits, &targets, weights.as_deref());
                self.student.gradient(&tokens, geometry, learn, pool, loss)
            }
            Objective::Distill(teacher) => {
                let taught = teacher.logits_in(&tokens, geometry, pool);
                let loss = |logits: &mut [f32]| loss::divergence(logits, &taught, vocab_size);
                let result = self.student.gradient(&tokens, geometry, learn, pool, loss);
                pool.give(taught);
                result
            }
        }
    }

    fn recycle(&mut self, grads: Vec<Vec<f32>>) {
        grads.into_iter().for_each(|grad| self.pool.give(grad));
    }

    fn check(&mut self) -> f64 {
        let window = self.check_geometry.window();
        let per = window * self.run.batch;
        let vocab_size = self.student.config.vocab_size;
        let mut sum = 0.0;
        let (tokens, targets) = &self.checks;
        for (i, (tokens, targets)) in tokens.chunks(per).zip(targets.chunks(per)).enumerate() {
            let mut logits = self.student.logits_in(tokens, &self.check_geometry, &mut self.pool);
            let loss = match self.objective {
                Objective::NextToken => loss::cross_entropy(&mut logits, targets, None),
                Objective::Distill(teacher) => {
                    if self.taught.len() == i {
                        let pool = &mut self.pool;
                        self.taught.push(teacher.logits_in(tokens, &self.check_geometry, pool));
                    }
                    loss::divergence(&mut logits, &self.taught[i], vocab_size)
                }
            };
            sum += loss * tokens.len() as f64;
            self.pool.give(logits);
        }
        sum / tokens.len() as f64
    }

    fn tokens(&self) -> usize {
        self.run.batch * self.text.window()
    }

    fn settings(&self) -> String {
        self.identity.clone()
    }
}
