//! Matrices of blocks: rows move whole, and come back bit for bit.

use fewbit_checkpoint::{
    Checkpoint, Weight,
    gguf::GgmlType,
    gguf_model::{FileType, GgufLayout, GgufModelWriter, GgufPlan},
};
use fewbit_format::{BlockMatrix, BlockType, MatrixShape, Quantized};

use super::fixture::{Tiny, bytes};

#[test]
fn blocks_come_back_under_the_names_of_the_model() {
    for name in ["llama", "qwen3", "gpt2"] {
        let tiny = Tiny::new(name);
        let mut planned = tiny.planned();
        let mut matrices = Vec::new();
        for (tensor, (_, values)) in planned.iter_mut().zip(&tiny.tensors) {
            let norm = tensor.name.contains("norm") || tensor.name.contains("wpe");
            if tensor.shape.len() != 2 || norm {
                continue;
            }
            // GPT-2's matrices are transposed before they become blocks, its embedding is not.
            let transposed = name == "gpt2" && tensor.name.contains(".h.");
            let shape = match transposed {
                true => MatrixShape::new(tensor.shape[1], tensor.shape[0]),
                false => MatrixShape::new(tensor.shape[0], tensor.shape[1]),
            };
            let weight: Vec<f32> = match transposed {
                true => (0..shape.len())
                    .map(|i| {
                        values[i % shape.in_features * shape.out_features + i / shape.in_features]
                    })
                    .collect(),
                false => values.clone(),
            };
            // 48 columns are no whole number of blocks.
            if shape.in_features % 32 != 0 {
                continue;
            }
            let matrix = BlockMatrix::round_to_nearest(&weight, shape, BlockType::Q8_0, None);
            tensor.kind = GgmlType::Q8_0;
            matrices.push((tensor.name.clone(), matrix.unwrap()));
        }
        assert!(matrices.len() > 8, "{name}");

        let plan = GgufPlan {
            config: &tiny.config,
            tokenizer: &tiny.tokenizer,
            name: "tiny",
            file_type: FileType::of_kinds(planned.iter().map(|tensor| tensor.kind)),
            tensors: &planned,
        };
        let layout = GgufLayout::new(&plan).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        let mut writer = GgufModelWriter::create(&file, layout, Some(20_000)).unwrap();
        for (tensor, (_, values)) in planned.iter().zip(&tiny.tensors) {
            match matrices.iter().find(|(name, _)| *name == tensor.name) {
                Some((name, matrix)) => writer.write(name, matrix.data()).unwrap(),
                None => writer.write(&tensor.name, &bytes(values)).unwrap(),
            }
        }
        assert!(writer.finish().unwrap().len() > 1, "split into several files");

        let model = Checkpoint::open(folder.path()).unwrap();
        let modules: Vec<&str> = model.quantized_modules().collect();
        assert_eq!(modules.len(), matrices.len(), "{name}");
        model.check().unwrap();
        for (tensor, matrix) in matrices {
            let module = tensor.strip_suffix(".weight").unwrap();
            assert!(modules.contains(&module));
            assert_eq!(model.tensor(&tensor), None);
            assert_eq!(model.weight(module).unwrap(), Weight::Quant(Quantized::Block(matrix)));
            // Listed as the bytes of its rows, which are no numbers.
            let listed = format!("{module}.weight_blocks");
            let error = model.read_f32(&listed).unwrap_err().to_string();
            assert!(error.contains("U8"), "{error}");
        }
    }
}
