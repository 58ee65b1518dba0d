//! Golden files.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use fewbit_checkpoint::Checkpoint;

pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The tiny checkpoints of `testdata`, by name.
pub(crate) fn cases() -> Vec<String> {
    let mut cases: Vec<String> = std::fs::read_dir(testdata())
        .expect("testdata is part of the crate")
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("golden.safetensors").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    cases.sort();
    assert!(cases.len() >= 12, "only {cases:?}");
    cases
}

pub(crate) struct Golden(Checkpoint);

impl Golden {
    pub(crate) fn open(path: &Path) -> Self {
        Self(Checkpoint::open(path).unwrap())
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.0.read_f32(name).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_some()
    }

    pub(crate) fn tokens(&self, name: &str) -> Vec<u32> {
        let bytes = self.0.read(name).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
    }
}

/// Fails if any value is further from the golden one than `relative` times the largest of them.
pub(crate) fn assert_close(got: &[f32], golden: &[f32], relative: f32, what: &str) {
    let largest = golden.iter().fold(0f32, |m, x| m.max(x.abs()));
    let (worst, at) = fewbit_testkit::max_abs_diff(got, golden);
    assert!(worst <= relative * largest, "{what}: off by {worst} at {at}, largest {largest}");
}
