//! Decodes GGUF files with candle-core and prints, as JSON, the CRC-32 of the f32 bytes of each tensor, by file and tensor.
//!
//!     cargo run --release -- FILE.gguf ... > out.json
//!
//! A negative zero counts as zero.

use std::{fs::File, io::BufReader, path::Path};

use candle_core::{Device, quantized::gguf_file::Content};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for path in std::env::args().skip(1) {
        let mut reader = BufReader::new(File::open(&path)?);
        let content = Content::read(&mut reader)?;
        let mut names: Vec<&String> = content.tensor_infos.keys().collect();
        names.sort();
        let mut tensors = Vec::new();
        for name in names {
            let tensor = content.tensor(&mut reader, name, &Device::Cpu)?;
            let values: Vec<f32> = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| (v + 0.0).to_le_bytes()).collect();
            tensors.push(format!("  {name:?}: \"{:08x}\"", crc32fast::hash(&bytes)));
        }
        let name = Path::new(&path).file_stem().unwrap_or_default().to_string_lossy();
        files.push(format!(" {name:?}: {{\n{}\n }}", tensors.join(",\n")));
    }
    println!("{{\n{}\n}}", files.join(",\n"));
    Ok(())
}
