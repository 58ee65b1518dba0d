//! Low-rank adapters on weights that stay as they are (LoRA, Hu et al., arXiv 2106.09685); on NF4 they are QLoRA (Dettmers et al., arXiv 2305.14314).
//!
//! ```text
//! W = base + (alpha / rank) · B · A        A (rank, in_features), B (out_features, rank)
//! ∂A = (alpha / rank) · Bᵀ · ∂W            ∂B = (alpha / rank) · ∂W · Aᵀ
//! ```
//!
//! The base stays in codes of one byte and is decoded on the way.

use fewbit_format::{MatrixShape, Quantized};
use rayon::prelude::*;

use crate::{
    param::{ANY, Kind, Param},
    pool::Pool,
    product, random,
};

/// Size of the adapters of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterSpec {
    /// Rows of `A`, columns of `B`; at least 1.
    pub rank: usize,
    /// What `B · A` is multiplied by, times the rank.
    pub alpha: f32,
    /// Where `A` begins; `B` begins with zeros, so that the first model is the base.
    pub seed: u64,
}

/// A quantized weight with what is learned on top of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    module: String,
    base: Quantized,
    rank: usize,
    /// alpha / rank.
    factor: f32,
    /// `(rank, in_features)`.
    a: Vec<f32>,
    /// `(out_features, rank)`.
    b: Vec<f32>,
}

impl Adapter {
    /// An adapter that adds nothing yet. `number` is that of the matrix in its model.
    pub(crate) fn new(module: &str, base: Quantized, spec: AdapterSpec, number: u64) -> Self {
        let AdapterSpec { rank, alpha, seed } = spec;
        let MatrixShape { out_features, in_features } = base.shape();
        // As PEFT begins: uniform within 1 / √in_features.
        let bound = 1.0 / (in_features.max(1) as f32).sqrt();
        let seed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = |i: u64| random::unit(seed, i) as f32 * 2.0 - 1.0;
        let a = (0..(rank * in_features) as u64).map(|i| place(i) * bound).collect();
        let b = vec![0.0; out_features * rank];
        Self { module: module.to_owned(), base, rank, factor: alpha / rank as f32, a, b }
    }

    /// Module name.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The matrix that it stands on.
    pub fn base(&self) -> &Quantized {
        &self.base
    }

    /// `A (rank, in_features)` and `B (out_features, rank)`.
    pub fn factors(&self) -> [&[f32]; 2] {
        [&self.a, &self.b]
    }

    /// What `B · A` is multiplied by: alpha / rank.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    fn shape(&self) -> MatrixShape {
        self.base.shape()
    }

    /// Writes the base and what is added to it, `(out_features, in_features)`.
    pub(crate) fn merge_into(&self, out: &mut [f32], pool: &mut Pool) {
        let MatrixShape { in_features, .. } = self.shape();
        let factors = MatrixShape::new(self.rank, in_features);
        product::grad_input(out, &self.b, &self.a, factors, pool);
        out.par_chunks_mut(in_features).enumerate().with_min_len(8).for_each_init(
            || vec![0.0; in_features],
            |row_values, (row, out)| {
                self.base.dequantize_row_into(row, row_values);
                for (out, base) in out.iter_mut().zip(row_values.iter()) {
                    *out = base + self.factor * *out;
                }
            },
        );
    }

    /// What is learned, in the order of [`backward`](Self::backward).
    pub(crate) fn learned<'a>(&'a mut self, out: &mut Vec<Param<'a>>) {
        let Self { module, a, b, .. } = self;
        for (name, values) in [("lora_A", a), ("lora_B", b)] {
            let name = format!("{module}.{name}");
            out.push(Param {
                name,
                kind: Kind::Adapter,
                unit: 1.0,
                range: ANY,
                matrix: None,
                values,
            });
        }
    }

    /// Gradients by `A` and `B`, from that by the sum, `d (out_features, in_features)`.
    pub(crate) fn backward(&self, d: Vec<f32>, pool: &mut Pool, out: &mut Vec<Vec<f32>>) {
        let factors = MatrixShape::new(self.rank, self.shape().in_features);
        let (mut da, mut db) = (pool.take(self.a.len()), pool.take(self.b.len()));
        product::grad_weight(&mut da, &self.b, &d, factors, pool);
        product::forward(&mut db, &d, &self.a, factors);
        pool.give(d);
        for gradient in [&mut da, &mut db] {
            gradient.iter_mut().for_each(|x| *x *= self.factor);
        }
        out.extend([da, db]);
    }
}
