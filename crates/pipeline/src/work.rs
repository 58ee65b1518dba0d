//! The work folder: what a killed run leaves behind, and how the same command goes on from it.
//!
//! ```text
//! OUT.work/
//!   job.json            fingerprint of model, plan, settings and calibration, and the version that wrote it
//!   block-007/          tensors of block 7, exactly as the output will hold them
//!   states-008.f32      hidden states of the calibration windows before block 8
//!   block-007.json      reports of block 7; written last, so its presence says that the block is finished
//! ```
//!
//! Everything is written under a temporary name and renamed, so each is either whole or absent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::write_atomically;
use serde::{Deserialize, Serialize};

use crate::{MatrixReport, PipelineError, streams::Streams};

/// What decides the output bytes, part by part, so that a mismatch can be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Version of the work folder's layout and of everything that shapes the output.
    pub(crate) version: String,
    /// Names, types, shapes and bytes of all tensors, and the configuration.
    pub(crate) model: String,
    /// Scheme of every matrix, method and its settings, container.
    pub(crate) settings: String,
    /// Calibration tokens and window.
    pub(crate) calibration: String,
}

impl Fingerprint {
    /// The first part in which two fingerprints differ.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        [
            (self.version != other.version, "version of this program"),
            (self.model != other.model, "model"),
            (self.settings != other.settings, "plan, method or container"),
            (self.calibration != other.calibration, "calibration text"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }
}

/// An open work folder.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    folder: PathBuf,
}

impl WorkFolder {
    /// Creates the folder, or opens one that an earlier run of the same job left.
    pub(crate) fn open(folder: &Path, fingerprint: &Fingerprint) -> Result<Self, PipelineError> {
        if !Self::check(folder, fingerprint)? {
            fs::create_dir_all(folder).map_err(|e| PipelineError::io(folder, e))?;
            let json = serde_json::to_vec_pretty(fingerprint).expect("strings serialize");
            write_atomically(&folder.join("job.json"), &json)?;
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Whether the folder exists; an error if it is of another job.
    pub(crate) fn check(folder: &Path, fingerprint: &Fingerprint) -> Result<bool, PipelineError> {
        let mismatch =
            |what| Err(PipelineError::WorkFolderMismatch { folder: folder.into(), what });
        let job = folder.join("job.json");
        match fs::read(&job) {
            Ok(bytes) => match serde_json::from_slice::<Fingerprint>(&bytes) {
                Err(_) => mismatch("unreadable job.json"),
                Ok(found) => found.difference(fingerprint).map_or(Ok(true), mismatch),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A run that was killed while it wrote job.json leaves only the temporary file of that.
                let foreign = fs::read_dir(folder).is_ok_and(|entries| {
                    entries.flatten().any(|e| !e.file_name().to_string_lossy().starts_with('.'))
                });
                if foreign { mismatch("missing job.json") } else { Ok(false) }
            }
            Err(error) => Err(PipelineError::io(&job, error)),
        }
    }

    /// Number of blocks that are finished, counted from the first.
    pub(crate) fn finished(&self, n_blocks: usize) -> usize {
        (0..n_blocks).take_while(|&block| self.reports_path(block).is_file()).count()
    }

    /// The folder of a block's tensors.
    pub(crate) fn tensors_path(&self, block: usize) -> PathBuf {
        self.folder.join(format!("block-{block:03}"))
    }

    fn reports_path(&self, block: usize) -> PathBuf {
        self.folder.join(format!("block-{block:03}.json"))
    }

    fn states_path(&self, block: usize) -> PathBuf {
        self.folder.join(format!("states-{block:03}.f32"))
    }

    /// Marks a block as finished. Its tensors must lie at [`tensors_path`](Self::tensors_path) by now. `states` are those before the next
    /// block; they replace those before this one.
    pub(crate) fn finish(
        &self,
        block: usize,
        reports: &[MatrixReport],
        states: Option<&Streams>,
    ) -> Result<(), PipelineError> {
        if let Some(states) = states {
            let path = self.states_path(block + 1);
            self.write_states(&path, states).map_err(|e| PipelineError::io(&path, e))?;
        }
        let json = serde_json::to_vec(reports).expect("reports serialize");
        write_atomically(&self.reports_path(block), &json)?;
        // No longer needed; if this fails, the file is only in the way until the folder is removed.
        let _ = fs::remove_file(self.states_path(block));
        Ok(())
    }

    fn write_states(&self, path: &Path, states: &Streams) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".states-").tempfile_in(&self.folder)?;
        states.write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// Reports of a finished block.
    pub(crate) fn reports(&self, block: usize) -> Result<Vec<MatrixReport>, PipelineError> {
        let path = self.reports_path(block);
        let bytes = fs::read(&path).map_err(|e| PipelineError::io(&path, e))?;
        serde_json::from_slice(&bytes).map_err(|_| PipelineError::WorkFolderMismatch {
            folder: self.folder.clone(),
            what: "damaged block report",
        })
    }

    /// Reads the hidden states before a block into `states`.
    pub(crate) fn read_states(
        &self,
        block: usize,
        states: &mut Streams,
    ) -> Result<(), PipelineError> {
        let path = self.states_path(block);
        let mut file = fs::File::open(&path).map_err(|e| PipelineError::io(&path, e))?;
        let size = file.metadata().map_err(|e| PipelineError::io(&path, e))?.len();
        if size != states.bytes() {
            let what = "hidden states of another length";
            return Err(PipelineError::WorkFolderMismatch { folder: self.folder.clone(), what });
        }
        states.read(&mut file).map_err(|e| PipelineError::io(&path, e))
    }

    /// Removes the folder, at the end of a job.
    pub(crate) fn remove(self) -> Result<(), PipelineError> {
        fs::remove_dir_all(&self.folder).map_err(|e| PipelineError::io(&self.folder, e))
    }
}
