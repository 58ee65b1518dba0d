//! The embedded folder: complete, small, and what its configuration says.

use std::collections::BTreeMap;

use fewbit_demo::{files, write_model};

fn file(name: &str) -> &'static [u8] {
    files().iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is missing")).1
}

/// Name, shape and byte range of every tensor in a safetensors header, which the writer keeps flat.
fn tensors(header: &str) -> BTreeMap<String, (Vec<usize>, [usize; 2])> {
    let numbers = |text: &str| -> Vec<usize> {
        text.split(',').filter(|n| !n.is_empty()).map(|n| n.trim().parse().unwrap()).collect()
    };
    let list = |entry: &str, key: &str| -> Vec<usize> {
        let at = entry.find(key).unwrap() + key.len();
        let open = at + entry[at..].find('[').unwrap() + 1;
        numbers(&entry[open..open + entry[open..].find(']').unwrap()])
    };
    let mut found = BTreeMap::new();
    for entry in header.split("},").filter(|e| e.contains("data_offsets")) {
        assert!(entry.contains("\"BF16\""), "{entry}");
        let name = entry.split('"').nth(1).unwrap().to_owned();
        let range = list(entry, "\"data_offsets\"");
        found.insert(name, (list(entry, "\"shape\""), [range[0], range[1]]));
    }
    found
}

fn header_and_data() -> (&'static str, &'static [u8]) {
    let bytes = file("model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let end = 8 + usize::try_from(length).unwrap();
    (std::str::from_utf8(&bytes[8..end]).unwrap(), &bytes[end..])
}

#[test]
fn the_tensors_are_those_of_the_configuration() {
    let (header, data) = header_and_data();
    let tensors = tensors(header);
    assert_eq!(tensors.len(), 1 + 4 * 9 + 1);
    for (name, shape) in [
        ("model.embed_tokens.weight", vec![1024, 256]),
        ("model.layers.0.self_attn.q_proj.weight", vec![256, 256]),
        ("model.layers.1.self_attn.k_proj.weight", vec![128, 256]),
        ("model.layers.2.self_attn.v_proj.weight", vec![128, 256]),
        ("model.layers.3.self_attn.o_proj.weight", vec![256, 256]),
        ("model.layers.3.mlp.gate_proj.weight", vec![512, 256]),
        ("model.layers.3.mlp.up_proj.weight", vec![512, 256]),
        ("model.layers.3.mlp.down_proj.weight", vec![256, 512]),
        ("model.layers.3.input_layernorm.weight", vec![256]),
        ("model.norm.weight", vec![256]),
    ] {
        assert_eq!(tensors[name].0, shape, "{name}");
    }
    let mut ranges: Vec<[usize; 2]> = tensors.values().map(|(_, r)| *r).collect();
    ranges.sort_unstable();
    let mut at = 0;
    for [from, to] in ranges {
        assert_eq!(from, at, "tensors lie one after the other");
        at = to;
    }
    assert_eq!(at, data.len());
    for (name, (shape, [from, to])) in &tensors {
        assert_eq!(shape.iter().product::<usize>() * 2, to - from, "{name}");
    }
    assert!((1_000_000..3_000_000).contains(&(data.len() / 2)), "{} parameters", data.len() / 2);
    assert!(file("model.safetensors").len() <= 6_000_000);
}

#[test]
fn the_weights_are_finite_and_trained() {
    let (header, data) = header_and_data();
    for (name, (_, [from, to])) in tensors(header) {
        let values: Vec<f32> = data[from..to]
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect();
        assert!(values.iter().all(|v| v.is_finite()), "{name}");
        // Norm weights start as ones: any spread is what training did to them.
        if name.contains("norm") {
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(high - low > 0.05, "{name}: {low}..{high}");
        }
    }
}

#[test]
fn the_texts_of_the_folder_are_json_of_the_right_kind() {
    for (name, needed) in [
        ("config.json", ["\"model_type\": \"llama\"", "\"tie_word_embeddings\": true"]),
        ("generation_config.json", ["\"bos_token_id\": 0", "\"eos_token_id\": 0"]),
        ("tokenizer_config.json", ["PreTrainedTokenizerFast", "<|endoftext|>"]),
        ("tokenizer.json", ["\"ByteLevel\"", "\"TemplateProcessing\""]),
    ] {
        let text = std::str::from_utf8(file(name)).unwrap();
        assert!(text.trim_start().starts_with('{') && text.trim_end().ends_with('}'), "{name}");
        assert!(needed.iter().all(|n| text.contains(n)), "{name} lacks one of {needed:?}");
    }
}

#[test]
fn write_model_writes_every_file_and_may_be_repeated() {
    let dir = std::env::temp_dir().join(format!("fewbit-demo-write-{}", std::process::id()));
    let inner = dir.join("some/where");
    write_model(&inner).unwrap();
    write_model(&inner).unwrap();
    for (name, content) in files() {
        assert_eq!(std::fs::read(inner.join(name)).unwrap(), *content, "{name}");
    }
    assert_eq!(std::fs::read_dir(&inner).unwrap().count(), files().len());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let file = std::env::temp_dir().join(format!("fewbit-demo-file-{}", std::process::id()));
    std::fs::write(&file, "in the way").unwrap();
    let error = write_model(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(error.to_string().contains("fewbit-demo-file"), "{error}");
}
