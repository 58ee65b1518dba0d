//! The embedded Hugging Face folder of the demo model.

use std::{fs, io, path::Path};

const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../model/config.json")),
    ("generation_config.json", include_bytes!("../model/generation_config.json")),
    ("model.safetensors", include_bytes!("../model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../model/tokenizer_config.json")),
];

/// The files of the model's folder: name and content.
///
/// ```
/// let (name, config) = fewbit_demo::files()[0];
/// assert_eq!(name, "config.json");
/// assert!(std::str::from_utf8(config).unwrap().contains("LlamaForCausalLM"));
/// ```
#[must_use]
pub fn files() -> &'static [(&'static str, &'static [u8])] {
    FILES
}

/// Writes the model's folder to `dir`, which is created if it does not exist; files of the same names
/// in it are replaced.
///
/// # Errors
/// Whatever the file system reports, with the path in the message.
///
/// ```
/// let dir = std::env::temp_dir().join(format!("fewbit-demo-doc-{}", std::process::id()));
/// fewbit_demo::write_model(&dir)?;
/// assert!(dir.join("model.safetensors").is_file());
/// std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_model(dir: &Path) -> io::Result<()> {
    let name_it = |path: &Path, e: io::Error| {
        io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|e| name_it(dir, e))?;
    for (name, content) in files() {
        let path = dir.join(name);
        fs::write(&path, content).map_err(|e| name_it(&path, e))?;
    }
    Ok(())
}
