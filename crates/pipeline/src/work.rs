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

use crate::{BlockReport, PipelineError, streams::Streams};

/// Layout of the work folder. Raised whenever something in it changes its form or meaning, so that a folder of another layout is refused and not misread.
pub(crate) const SCHEMA: u32 = 2;

/// What decides the output bytes, part by part, so that a mismatch can be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Layout of the folder.
    pub(crate) schema: u32,
    /// Version of the program, which shapes the output.
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
            (self.model != other.model, "model"),
            (self.settings != other.settings, "plan, method or container"),
            (self.calibration != other.calibration, "calibration text"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }
}

/// The part of `job.json` that every version can read.
#[derive(Deserialize)]
struct Origin {
    /// Absent in layout 1.
    #[serde(default = "first_schema")]
    schema: u32,
    version: String,
}

fn first_schema() -> u32 {
    1
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
            Ok(bytes) => {
                let Ok(origin) = serde_json::from_slice::<Origin>(&bytes) else {
                    return mismatch("unreadable job.json");
                };
                if (origin.schema, &origin.version) != (SCHEMA, &fingerprint.version) {
                    return Err(PipelineError::WorkFolderVersion {
                        folder: folder.into(),
                        version: origin.version,
                        schema: origin.schema,
                        own_version: fingerprint.version.clone(),
                        own_schema: SCHEMA,
                    });
                }
                match serde_json::from_slice::<Fingerprint>(&bytes) {
                    Err(_) => mismatch("unreadable job.json"),
                    Ok(found) => found.difference(fingerprint).map_or(Ok(true), mismatch),
                }
            }
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
        report: &BlockReport,
        states: Option<&Streams>,
    ) -> Result<(), PipelineError> {
        if let Some(states) = states {
            let path = self.states_path(block + 1);
            self.write_states(&path, states).map_err(|e| PipelineError::io(&path, e))?;
        }
        let json = serde_json::to_vec(report).expect("reports serialize");
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

    /// Report of a finished block.
    pub(crate) fn report(&self, block: usize) -> Result<BlockReport, PipelineError> {
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
