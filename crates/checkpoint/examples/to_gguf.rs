//! Writes a model folder as a GGUF file that llama.cpp loads, by plain rounding: `to_gguf MODEL OUT.gguf [FILE_TYPE]`.
//!
//! FILE_TYPE is F32 (the default), Q8_0, Q4_K_M and the like; which matrix takes which type is llama.cpp's choice.

use std::{env, error::Error, path::Path};

use fewbit_checkpoint::{
    Checkpoint,
    gguf_model::{
        FileType, GgufLayout, GgufModelWriter, GgufPlan, Hparams, Mix, PlannedTensor, Relay,
        TokenizerFiles, Towards,
    },
};
use fewbit_format::{BlockMatrix, MatrixShape};

#[expect(clippy::print_stdout, reason = "what the program is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, out, rest @ ..] = &args[..] else {
        return Err("usage: to_gguf MODEL OUT.gguf [FILE_TYPE]".into());
    };
    let file_type = rest.first().map_or("f32", String::as_str);
    let file_type = FileType::of_name(file_type).ok_or("no such file type")?;
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let mut hparams = Hparams::of_config(checkpoint.config())?;
    hparams.tied |= checkpoint.tensor("lm_head.weight").is_none();
    let (mix, names) = (Mix::new(file_type, &hparams, false), hparams.names());

    // A matrix as (out_features, in_features); GPT-2's lie transposed.
    let matrix_shape = |shape: &[usize], relay: Relay| match (shape, relay) {
        (&[in_features, out_features], Relay::Transpose) => {
            Some(MatrixShape { out_features, in_features })
        }
        (&[out_features, in_features], _) => Some(MatrixShape { out_features, in_features }),
        _ => None,
    };
    let mut tensors = Vec::new();
    for info in checkpoint.tensors() {
        let gguf = names.to_gguf(&info.name);
        let kind = match &gguf {
            Some(gguf) => {
                let in_features =
                    matrix_shape(&info.shape, gguf.relay).map_or(0, |shape| shape.in_features);
                mix.kind(&gguf.name, info.shape.len(), in_features)
            }
            None => FileType::F32.base(),
        };
        let (name, shape, dtype) = (info.name.clone(), info.shape.clone(), info.dtype);
        tensors.push(PlannedTensor { name, shape, dtype, kind });
    }
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
    for tensor in tensors {
        if writer.layout().gguf_name(&tensor.name).is_none() {
            continue;
        }
        let relay = names.to_gguf(&tensor.name).map_or(Relay::AsIs, |gguf| gguf.relay);
        match (tensor.kind.block(), matrix_shape(&tensor.shape, relay)) {
            (Some(block), Some(shape)) => {
                let values = checkpoint.read_f32(&tensor.name)?;
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let relay = if relay == Relay::Transpose { relay } else { Relay::AsIs };
                let bytes = relay.numbers(Towards::Gguf, bytes.into(), &tensor.shape, 4);
                let floats = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
                let values: Vec<f32> = floats.map(f32::from_le_bytes).collect();
                let matrix = BlockMatrix::round_to_nearest(&values, shape, block, None)?;
                writer.write(&tensor.name, matrix.data())?;
            }
            _ => writer.write(&tensor.name, &checkpoint.read(&tensor.name)?)?,
        }
    }
    for path in writer.finish()? {
        println!("{}", path.display());
    }
    Ok(())
}
