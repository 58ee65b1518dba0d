//! A vocabulary from GGUF to `tokenizer.json` and back: `gguf_vocabulary IN.gguf FOLDER`.
//!
//! Writes the tokenizer files, and `vocabulary.gguf` with what was read back from them, for comparison.

use std::{env, error::Error, fs, path::Path};

use fewbit_checkpoint::{
    gguf::{Gguf, GgufWriter},
    gguf_model::{GgufArch, TokenizerFiles, Vocabulary},
};
use serde_json::{Map, Value};

#[expect(clippy::print_stdout, reason = "what the program is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [file, folder] = &args[..] else {
        return Err("usage: gguf_vocabulary IN.gguf FOLDER".into());
    };
    let gguf = Gguf::open(Path::new(file))?;
    let vocabulary = Vocabulary::of_metadata(gguf.metadata())?.ok_or("no vocabulary")?;
    let (files, caveats) = vocabulary.files();
    for caveat in caveats {
        println!("to tokenizer.json: {caveat}");
    }
    let folder = Path::new(folder);
    fs::create_dir_all(folder)?;
    for (name, object) in
        [("tokenizer.json", files.tokenizer), ("tokenizer_config.json", files.config)]
    {
        fs::write(folder.join(name), Value::Object(object).to_string())?;
    }

    let arch = gguf.metadata().text("general.architecture").and_then(GgufArch::of_name);
    let (back, caveats) = Vocabulary::of_tokenizer(
        &TokenizerFiles::read(folder)?,
        &Map::new(),
        arch.unwrap_or(GgufArch::Llama),
        vocabulary.tokens.len(),
    )?;
    for caveat in caveats {
        println!("from tokenizer.json: {caveat}");
    }
    let mut metadata = gguf.metadata().clone();
    let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys.iter().filter(|key| key.starts_with("tokenizer.")) {
        metadata.remove(key);
    }
    back.write(&mut metadata);
    GgufWriter::create(&folder.join("vocabulary.gguf"), &metadata, Vec::new(), None)?.finish()?;
    Ok(())
}
