//! Which GGUF file a path means.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{CheckpointError, error::io};

/// The GGUF file to open: the path itself, or the only one, split or not, in a folder without safetensors. `None` if the path means another
/// kind of model.
pub(crate) fn find_gguf(path: &Path, is_folder: bool) -> Result<Option<PathBuf>, CheckpointError> {
    let has_extension = |path: &Path, wanted: &str| {
        path.extension().is_some_and(|found| found.eq_ignore_ascii_case(wanted))
    };
    if !is_folder {
        return Ok(has_extension(path, "gguf").then(|| path.to_owned()));
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(io("list", path))? {
        let file = entry.map_err(io("list", path))?.path();
        if has_extension(&file, "safetensors") {
            return Ok(None);
        }
        if has_extension(&file, "gguf") && !is_later_part(&file) {
            found.push(file);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([only]) => Ok(Some(only)),
        Err(_) => Ok(None),
    }
}

/// Whether a file is one of a split model, and not the first: `-00002-of-00003.gguf`.
fn is_later_part(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let Some((rest, count)) = stem.rsplit_once("-of-") else { return false };
    let Some((_, number)) = rest.rsplit_once('-') else { return false };
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    digits(count) && digits(number) && number != "00001"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_split_model_stands_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        let find = || find_gguf(folder.path(), true).unwrap();
        assert_eq!(find(), None);
        touch("m-00001-of-00002.gguf");
        touch("m-00002-of-00002.gguf");
        assert_eq!(find(), Some(folder.path().join("m-00001-of-00002.gguf")));
        touch("other.gguf");
        assert_eq!(find(), None);
        fs::remove_file(folder.path().join("m-00001-of-00002.gguf")).unwrap();
        assert_eq!(find(), Some(folder.path().join("other.gguf")));
        touch("model.safetensors");
        assert_eq!(find(), None);
    }
}
