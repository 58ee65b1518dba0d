//! Names of the files of a split model, and the keys that tie them together.

use std::path::{Path, PathBuf};

/// Number of this file, from 0.
pub(super) const NUMBER: &str = "split.no";
/// Number of files.
pub(super) const COUNT: &str = "split.count";
/// Number of tensors in all files.
pub(super) const TENSORS: &str = "split.tensors.count";
/// The most files that the keys can count.
pub(super) const MAX_COUNT: usize = u16::MAX as usize;

/// The name of a model's file, taken apart: `prefix-00002-of-00003.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartName {
    prefix: PathBuf,
    /// From 0.
    pub(super) number: usize,
    pub(super) count: usize,
}

impl PartName {
    /// `None` for a name of another form.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| -> Option<usize> {
            let all = text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
            all.then(|| text.parse().ok()).flatten()
        };
        let (number, count) = (digits(number)?.checked_sub(1)?, digits(count)?);
        (number < count).then(|| Self { prefix: path.with_file_name(prefix), number, count })
    }

    /// The name of a part of a model whose only file would be `path`.
    pub(super) fn new(path: &Path, number: usize, count: usize) -> Self {
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
        Self { prefix: path.with_file_name(stem), number, count }
    }

    /// The path of the part of this number.
    pub(super) fn path(&self, number: usize) -> PathBuf {
        let prefix = self.prefix.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}-{:05}-of-{:05}.gguf", number + 1, self.count);
        self.prefix.with_file_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let path = Path::new("/a/b-00001-of-7-00002-of-00010.gguf");
        let name = PartName::parse(path).unwrap();
        assert_eq!((name.number, name.count), (1, 10));
        assert_eq!(name.path(1), path);
        assert_eq!(name.path(9), Path::new("/a/b-00001-of-7-00010-of-00010.gguf"));
        assert_eq!(
            PartName::new(Path::new("x/m.gguf"), 0, 2).path(0),
            Path::new("x/m-00001-of-00002.gguf")
        );
        assert_eq!(PartName::new(Path::new("m"), 0, 2).path(1), Path::new("m-00002-of-00002.gguf"));
        for other in [
            "model.gguf",
            "a-00000-of-00002.gguf",
            "a-00003-of-00002.gguf",
            "a-1-of-2.gguf",
            "a-00001-of-00002.bin",
            "a-0000x-of-00002.gguf",
            "a-+0001-of-00002.gguf",
            "a-99999999999999999999999-of-99999999999999999999999.gguf",
        ] {
            assert_eq!(PartName::parse(Path::new(other)), None, "{other}");
        }
    }
}
