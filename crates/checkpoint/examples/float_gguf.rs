//! Writes a float model folder as a GGUF file that llama.cpp loads: `float_gguf MODEL OUT.gguf [f32|f16|bf16]`.

use std::{env, error::Error, path::Path};

use fewbit_checkpoint::{
    Checkpoint,
    gguf_model::{FileType, GgufLayout, GgufModelWriter, GgufPlan, PlannedTensor, TokenizerFiles},
};

#[expect(clippy::print_stdout, reason = "what the program is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, out, rest @ ..] = &args[..] else {
        return Err("usage: float_gguf MODEL OUT.gguf [f32|f16|bf16]".into());
    };
    let file_type = rest.first().map_or("f32", String::as_str);
    let file_type = FileType::of_name(file_type).ok_or("f32, f16 or bf16")?;
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let tensors: Vec<PlannedTensor> = checkpoint
        .tensors()
        .map(|info| PlannedTensor {
            name: info.name.clone(),
            shape: info.shape.clone(),
            dtype: info.dtype,
            kind: file_type.base(),
        })
        .collect();
    let name = Path::new(model).file_name().unwrap_or_default().to_string_lossy();
    let layout = GgufLayout::new(&GgufPlan {
        config: checkpoint.config(),
        tokenizer: &TokenizerFiles::read(Path::new(model))?,
        name: &name,
        file_type,
        tensors: &tensors,
    })?;
    for caveat in layout.caveats() {
        println!("note: {caveat}");
    }
    let mut writer = GgufModelWriter::create(Path::new(out), layout, None)?;
    for tensor in &tensors {
        if writer.layout().gguf_name(&tensor.name).is_some() {
            writer.write(&tensor.name, &checkpoint.read(&tensor.name)?)?;
        }
    }
    for path in writer.finish()? {
        println!("{}", path.display());
    }
    Ok(())
}
