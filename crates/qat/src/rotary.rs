//! Rotary position embedding, forwards and backwards: the gradient turns the other way.

use fewbit_model::{RopeSettings, inverse_frequencies};

/// Cosines and sines of the positions of a window.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    half: usize,
    /// Cosines, then sines, of each position.
    table: Vec<f32>,
}

impl Rotary {
    /// The table of the first `n` positions.
    pub(crate) fn new(head_dim: usize, settings: RopeSettings, n: usize) -> Self {
        let RopeSettings { theta, scaling } = settings;
        let frequencies = inverse_frequencies(head_dim, theta, scaling);
        let half = frequencies.len();
        let mut table = vec![0.0; n * 2 * half];
        for (position, row) in table.chunks_exact_mut(2 * half).enumerate() {
            for (i, f) in frequencies.iter().enumerate() {
                (row[half + i], row[i]) = (position as f32 * f).sin_cos();
            }
        }
        Self { half, table }
    }

    /// Turns one head of a token at `position`.
    #[inline(always)]
    pub(crate) fn turn(&self, head: &mut [f32], position: usize) {
        let (cos, sin) =
            self.table[position * 2 * self.half..][..2 * self.half].split_at(self.half);
        let (a, b) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// Turns it back.
    #[inline(always)]
    pub(crate) fn turn_back(&self, head: &mut [f32], position: usize) {
        let (cos, sin) =
            self.table[position * 2 * self.half..][..2 * self.half].split_at(self.half);
        let (a, b) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
        }
    }
}
