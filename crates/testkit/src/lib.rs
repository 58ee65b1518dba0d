//! Generators, comparers and data folders for the tests of the workspace. Unpublished; depends on none of our crates.

use std::path::PathBuf;

mod crc;
mod random;

pub use crc::crc32;
pub use random::Random;

/// The folder of shared models and texts, if this machine has it: `$FEWBIT_SHARED`, or `shared` beside the repository.
///
/// A test that needs it calls [`shared_or_skip`].
pub fn shared() -> Option<PathBuf> {
    let folder = match std::env::var_os("FEWBIT_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
    };
    folder.join("models").is_dir().then_some(folder)
}

/// [`shared`], or `None` after saying on standard error which test is skipped and what would run it.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub fn shared_or_skip(test: &str) -> Option<PathBuf> {
    let folder = shared();
    if folder.is_none() {
        eprintln!(
            "{test}: skipped, no shared models (set FEWBIT_SHARED to a folder with models/ and text/)"
        );
    }
    folder
}

/// The largest |a − b|, with its index.
///
/// # Panics
/// If the lengths differ or any value is NaN: a comparison that NaN could pass would prove nothing.
pub fn max_abs_diff(a: &[f32], b: &[f32]) -> (f32, usize) {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let mut worst = (0.0, 0);
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        let d = (x - y).abs();
        assert!(!d.is_nan(), "NaN at {i}: {x} against {y}");
        if d > worst.0 {
            worst = (d, i);
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_abs_diff_finds_the_worst() {
        assert_eq!(max_abs_diff(&[1.0, 2.0, 3.0], &[1.0, 2.5, 2.75]), (0.5, 1));
    }

    #[test]
    #[should_panic(expected = "NaN at 1")]
    fn max_abs_diff_refuses_nan() {
        max_abs_diff(&[0.0, f32::NAN], &[0.0, 0.0]);
    }
}
