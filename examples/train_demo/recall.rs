//! How well a model remembers: what a word costs that its story has used before, and how often it is the first guess.

use std::fmt;

use anyhow::Result;
use fewbit::qat::{Geometry, Student, Windows};

use crate::tokenizer::Mention;

/// Held-out words of one kind.
#[derive(Clone, Copy, Default)]
pub struct Recall {
    words: usize,
    guessed: usize,
    nats: f64,
}

impl Recall {
    /// New words of `windows` windows, and words that were used before.
    pub fn measure(
        student: &Student,
        held_out: &Windows,
        windows: usize,
        mentions: impl Fn(&[u32]) -> Vec<Option<Mention>>,
    ) -> Result<[Self; 2]> {
        let geometry = Geometry::new(student.config(), held_out.window())?;
        let mut found = [Self::default(); 2];
        let windows = windows.min(held_out.len());
        for number in (0..windows).map(|i| i * held_out.len() / windows) {
            let (tokens, targets) = held_out.pairs([number]);
            let logits = student.logits(&tokens, &geometry);
            let rows = logits.chunks_exact(student.config().vocab_size);
            for ((row, &target), mention) in rows.zip(&targets).zip(mentions(&targets)) {
                let Some(mention) = mention else { continue };
                let own = row[target as usize];
                let most = row.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
                let recall = &mut found[usize::from(mention == Mention::Again)];
                recall.words += 1;
                recall.guessed += usize::from(own == most);
                recall.nats += sum.ln() - f64::from(own - most);
            }
        }
        Ok(found)
    }
}

impl fmt::Display for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.words.max(1) as f64;
        write!(f, "{:.2} nats, {:.0} % guessed", self.nats / n, 100.0 * self.guessed as f64 / n)
    }
}
