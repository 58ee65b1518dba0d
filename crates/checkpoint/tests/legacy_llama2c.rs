//! Files of llama2.c: the stories260K model in two of its formats, and small files of every version.

use std::fs;

use fewbit_checkpoint::{
    Access, Checkpoint, CheckpointError, Item, Malformed, Problem,
    gguf::{GgmlType, Gguf},
    gguf_model::{GgufArch, Hparams, TokenizerFiles, Vocabulary},
    legacy::{
        LegacyFile, LegacySettings, Llama2c, Llama2cKind, Llama2cVersion, Token, llama2c_vocabulary,
    },
};
use fewbit_testkit::Random;

/// Undoes the order of Hugging Face: rows of a head in halves instead of pairs.
fn pairs(values: &[f32], n_heads: usize, in_features: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(in_features).collect();
    let head = rows.len() / n_heads;
    let row = |i: usize| rows[i / head * head + i % 2 * (head / 2) + i % head / 2];
    (0..rows.len()).flat_map(|i| row(i).iter().copied()).collect()
}

/// A name of llama2.c as Hugging Face has it.
fn hugging_face(name: &str) -> String {
    match name {
        "tok_embeddings.weight" => "model.embed_tokens.weight".to_owned(),
        "norm.weight" => "model.norm.weight".to_owned(),
        _ => format!("model.{name}")
            .replace("attention_norm", "input_layernorm")
            .replace("ffn_norm", "post_attention_layernorm")
            .replace("attention.w", "self_attn.")
            .replace("self_attn.q", "self_attn.q_proj")
            .replace("self_attn.k", "self_attn.k_proj")
            .replace("self_attn.v", "self_attn.v_proj")
            .replace("self_attn.o", "self_attn.o_proj")
            .replace("feed_forward.w1", "mlp.gate_proj")
            .replace("feed_forward.w2", "mlp.down_proj")
            .replace("feed_forward.w3", "mlp.up_proj"),
    }
}

#[test]
fn stories260k_has_the_weights_of_its_folder() {
    let Some(shared) = fewbit_testkit::shared_or_skip("stories260k_has_the_weights_of_its_folder")
    else {
        return;
    };
    let (raw, folder) = (shared.join("raw/llama2c"), shared.join("models/stories260K"));
    let float = Llama2c::open(&raw.join("stories260K.bin")).unwrap();
    let quantized = Llama2c::open(&raw.join("stories260K-q8.bin")).unwrap();
    assert_eq!(float.version(), Llama2cVersion::V0);
    assert_eq!(quantized.version(), Llama2cVersion::V2 { group_size: 8 });
    assert_eq!(float.parameters(), quantized.parameters());
    let parameters = float.parameters();
    assert_eq!((parameters.dim, parameters.hidden_dim, parameters.n_layers), (64, 172, 5));
    assert_eq!((parameters.n_heads, parameters.n_kv_heads), (8, 4));
    assert!(parameters.shared_classifier);

    let checkpoint = Checkpoint::open(&folder).unwrap();
    assert_eq!(float.tensors().len(), checkpoint.tensors().len());
    for tensor in float.tensors() {
        let name = tensor.name.as_str();
        let mut expected = checkpoint.read_f32(&hugging_face(name)).unwrap();
        for (part, n_heads) in [(".wq.", 8), (".wk.", 4)] {
            if name.contains(part) {
                expected = pairs(&expected, n_heads, 64);
            }
        }
        let values = float.read_f32(name).unwrap();
        assert_eq!(values, expected, "{name}");
        let codes = quantized.read_f32(name).unwrap();
        // Half a step of each group's scale, and the rounding of the product.
        for (values, codes) in values.chunks(8).zip(codes.chunks(8)) {
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (v, c) in values.iter().zip(codes) {
                assert!((v - c).abs() <= largest / 127.0 * 0.5001, "{name}: {v} {c}");
            }
        }
        let matrix = quantized.quant_matrix(name).unwrap();
        let whole_rows = tensor.dims.len() == 2 && tensor.dims[0] % 8 == 0;
        assert_eq!(matrix.is_some(), whole_rows, "{name}");
        if let Some(matrix) = matrix {
            assert_eq!(matrix.dequantize(), codes, "{name}");
        }
    }
    let vocabulary = llama2c_vocabulary(&raw.join("tok512.bin")).unwrap();
    assert_eq!(vocabulary.len(), 512);
    assert_eq!(vocabulary[0].text, b"<unk>");
    assert_eq!(vocabulary[13].text, b"<0x0A>");
    assert_eq!((vocabulary[259].text.as_slice(), vocabulary[259].score), (&b" t"[..], -0.0));
    assert!(vocabulary[260..].windows(2).all(|pair| pair[0].score > pair[1].score));
}

/// The GGUF file stands for the model of the folder: same tensors, same tokens, same settings.
#[test]
fn stories260k_becomes_the_model_of_its_folder() {
    let test = "stories260k_becomes_the_model_of_its_folder";
    let Some(shared) = fewbit_testkit::shared_or_skip(test) else { return };
    let (raw, folder) = (shared.join("raw/llama2c"), shared.join("models/stories260K"));
    let original = Checkpoint::open(&folder).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let vocabulary = Some(llama2c_vocabulary(&raw.join("tok512.bin")).unwrap());
    let settings = LegacySettings { vocabulary, ..Default::default() };
    let out = temporary.path().join("float.gguf");
    let file = LegacyFile::open_with(&raw.join("stories260K.bin"), Access::Positioned).unwrap();
    file.write_gguf(&out, &settings).unwrap();
    let model = Checkpoint::open(&out).unwrap();
    assert_eq!(model.tensors().len(), original.tensors().len());
    for info in original.tensors() {
        assert_eq!(model.tensor(&info.name).unwrap().shape, info.shape);
        assert_eq!(
            model.read_f32(&info.name).unwrap(),
            original.read_f32(&info.name).unwrap(),
            "{}",
            info.name
        );
    }
    let hparams = |checkpoint: &Checkpoint| Hparams::of_config(checkpoint.config()).unwrap();
    assert_eq!(hparams(&model), hparams(&original));
    let gguf = Gguf::open(&out).unwrap();
    let found = Vocabulary::of_metadata(gguf.metadata()).unwrap().unwrap();
    let files = TokenizerFiles::read(&folder).unwrap();
    let (expected, _) =
        Vocabulary::of_tokenizer(&files, original.config(), GgufArch::Llama, 512).unwrap();
    assert_eq!(found.tokens[3..], expected.tokens[3..]);
    assert_eq!(found.types, expected.types);
    assert_eq!(found.special.bos, expected.special.bos);

    // Its 8-bit scales are no f16: refused, or the same values in f32.
    let file = LegacyFile::open_with(&raw.join("stories260K-q8.bin"), Access::Positioned).unwrap();
    let out = temporary.path().join("q8.gguf");
    let error = file.write_gguf(&out, &settings).unwrap_err();
    assert!(matches!(error, CheckpointError::LegacyScales { .. }), "{error}");
    assert!(!out.exists());
    file.write_gguf(&out, &LegacySettings { widen: true, ..settings.clone() }).unwrap();
    let name = "layers.1.feed_forward.w2.weight";
    assert_eq!(
        Gguf::open(&out).unwrap().read_f32("blk.1.ffn_down.weight").unwrap(),
        file.read_f32(name).unwrap()
    );

    let unsaid = file.write_gguf(&temporary.path().join("x.gguf"), &LegacySettings::default());
    let error = unsaid.unwrap_err();
    assert!(matches!(error, CheckpointError::LegacySetting { what: "its tokens", .. }), "{error}");
    let mut few = settings;
    few.vocabulary.as_mut().unwrap().pop();
    let error = file.write_gguf(&temporary.path().join("x.gguf"), &few).unwrap_err();
    let expected = CheckpointError::LegacyVocabulary { got: 511, expected: 512 };
    assert_eq!(error.to_string(), expected.to_string());
}

/// Scales that are values of an f16 become those of q8_0.
#[test]
fn groups_of_32_with_short_scales_keep_their_codes() {
    let dims = [32i32, 64, 1, 2, 2, 4, 8];
    let mut bytes = b"24ka\x02\0\0\0".to_vec();
    bytes.extend(dims.iter().flat_map(|v| v.to_le_bytes()));
    bytes.push(1);
    bytes.extend(32i32.to_le_bytes());
    bytes.resize(256 + 3 * 32 * 4, 0);
    for n in [4 * 32, 1024, 1024, 1024, 1024, 2048, 2048, 2048] {
        bytes.extend((0..n).map(|i| (i * 37 % 255) as u8));
        bytes.extend((0..n / 32).flat_map(|i| (0.25 + i as f32 / 64.0).to_le_bytes()));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    fs::write(&path, bytes).unwrap();
    let file = LegacyFile::open_with(&path, Access::Mapped).unwrap();
    let token = |text: &str| Token { text: text.as_bytes().to_vec(), score: -1.0 };
    let vocabulary = Some(["<unk>", "\n<s>\n", "\n</s>\n", " a"].map(token).to_vec());
    let settings = LegacySettings { vocabulary, ..Default::default() };
    let out = folder.path().join("x.gguf");
    file.write_gguf(&out, &settings).unwrap();
    let gguf = Gguf::open(&out).unwrap();
    for (name, legacy) in [
        ("token_embd.weight", "tok_embeddings.weight"),
        ("blk.0.attn_k.weight", "layers.0.attention.wk.weight"),
        ("blk.0.ffn_down.weight", "layers.0.feed_forward.w2.weight"),
    ] {
        assert_eq!(gguf.tensor(name).unwrap().kind, GgmlType::Q8_0);
        assert_eq!(gguf.read_f32(name).unwrap(), file.read_f32(legacy).unwrap());
    }
    let found = Vocabulary::of_metadata(gguf.metadata()).unwrap().unwrap();
    assert_eq!(found.tokens, ["<unk>", "<s>", "</s>", "▁a"]);
}

#[test]
fn checkpoints_of_pytorch_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    for magic in [&b"PK\x03\x04rest"[..], &[0x80, 2, 0x8a, 10]] {
        fs::write(&path, magic).unwrap();
        let error = LegacyFile::open_with(&path, Access::Mapped).unwrap_err().to_string();
        assert!(error.contains("a checkpoint of PyTorch"), "{error}");
    }
}

const DIMS: [i32; 7] = [8, 6, 2, 4, 2, 3, 5];

/// A file of any version, with random weights; the values by name.
fn file(version: u32, shared: bool) -> (Vec<u8>, Vec<(String, Vec<f32>)>) {
    let mut random = Random::new(5);
    let mut bytes = Vec::new();
    let [dim, hidden, n_layers, n_heads, n_kv_heads, vocab, seq_len] = DIMS.map(|v| v as usize);
    let mut dims = DIMS;
    if version > 0 {
        bytes.extend(b"24ka");
        bytes.extend(version.to_le_bytes());
    } else if !shared {
        dims[5] = -dims[5];
    }
    bytes.extend(dims.iter().flat_map(|v| v.to_le_bytes()));
    if version > 0 {
        bytes.push(shared.into());
        if version == 2 {
            bytes.extend(4i32.to_le_bytes());
        }
        bytes.resize(256, 0);
    }
    let kv = dim / n_heads * n_kv_heads;
    let one = |name: &str, n: usize, matrix| vec![(name.to_owned(), n, matrix)];
    let each = |name: &str, n: usize, matrix| -> Vec<(String, usize, bool)> {
        (0..n_layers).map(|layer| (format!("layers.{layer}.{name}.weight"), n, matrix)).collect()
    };
    let embedding = one("tok_embeddings.weight", vocab * dim, true);
    let attention_norm = each("attention_norm", dim, false);
    let attention = [
        each("attention.wq", dim * dim, true),
        each("attention.wk", dim * kv, true),
        each("attention.wv", dim * kv, true),
        each("attention.wo", dim * dim, true),
    ]
    .concat();
    let ffn_norm = each("ffn_norm", dim, false);
    let feed_forward = ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
        .map(|name| each(name, dim * hidden, true))
        .concat();
    let norm = one("norm.weight", dim, false);
    let tables = one("", seq_len * (dim / n_heads / 2) * 2, false);
    let mut order = match version {
        0 => [embedding, attention_norm, attention, ffn_norm, feed_forward, norm, tables].concat(),
        _ => [attention_norm, ffn_norm, norm, embedding, attention, feed_forward].concat(),
    };
    if !shared {
        order.extend(one("output.weight", vocab * dim, true));
    }
    let mut values = Vec::new();
    for (name, n, matrix) in order {
        let mut weights = random.normals(n);
        if version == 2 && matrix {
            let codes: Vec<i8> = (0..n).map(|_| random.below(255) as i8).collect();
            let scales: Vec<f32> = random.normals(n / 4).iter().map(|s| s.abs()).collect();
            bytes.extend(codes.iter().map(|&code| code as u8));
            bytes.extend(scales.iter().flat_map(|v| v.to_le_bytes()));
            weights =
                codes.iter().enumerate().map(|(i, &c)| f32::from(c) * scales[i / 4]).collect();
        } else {
            bytes.extend(weights.iter().flat_map(|v| v.to_le_bytes()));
        }
        if !name.is_empty() {
            values.push((name, weights));
        }
    }
    (bytes, values)
}

fn open(bytes: &[u8]) -> Result<Llama2c, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    fs::write(&path, bytes).unwrap();
    let mapped = Llama2c::open(&path);
    let positioned = Llama2c::open_with(&path, Access::Positioned);
    match (&mapped, &positioned) {
        (Ok(a), Ok(b)) => assert!(a.tensors().eq(b.tensors())),
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        _ => panic!("the ways of access disagree: {mapped:?} {positioned:?}"),
    }
    mapped
}

#[test]
fn every_version_with_and_without_an_output_matrix() {
    for version in 0..3 {
        for shared in [true, false] {
            let (bytes, values) = file(version, shared);
            let file = open(&bytes).unwrap();
            let expected = match version {
                0 => Llama2cVersion::V0,
                1 => Llama2cVersion::V1,
                _ => Llama2cVersion::V2 { group_size: 4 },
            };
            assert_eq!(file.version(), expected);
            let parameters = file.parameters();
            assert_eq!((parameters.vocab_size, parameters.seq_len), (3, 5));
            assert_eq!(parameters.shared_classifier, shared);
            assert!(file.tensors().map(|t| &t.name).eq(values.iter().map(|(name, _)| name)));
            for (name, values) in &values {
                assert_eq!(&file.read_f32(name).unwrap(), values, "v{version} {name}");
            }
            let kind = file.tensor("layers.1.feed_forward.w2.weight").unwrap().kind;
            // Rows of 6 are no multiple of 4.
            assert!(file.quant_matrix("layers.1.feed_forward.w2.weight").unwrap().is_none());
            let matrix = file.quant_matrix("layers.1.attention.wk.weight").unwrap();
            assert_eq!(matrix.is_some(), version == 2);
            assert_eq!(kind == Llama2cKind::F32, version < 2);
            let error = file.read("absent").unwrap_err();
            assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error}");
        }
    }
}

fn check(bytes: &[u8], at: u64, problem: Problem) {
    match open(bytes).unwrap_err() {
        CheckpointError::Malformed { source, format: "llama2.c", .. } => {
            assert_eq!(*source, Malformed { at, item: Item::Header, problem });
        }
        other => panic!("{other}"),
    }
}

#[test]
fn impossible_files() {
    for version in 0..3 {
        let (bytes, _) = file(version, false);
        let (first, data) = if version == 0 { (0, 28) } else { (8, 256) };
        let total = bytes.len() as u64 - data;
        let put = |field: usize, value: i32| {
            let mut bytes = bytes.clone();
            let at = first + 4 * field;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            (bytes, at as u64)
        };
        let names =
            ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"];
        for (field, what) in names.into_iter().enumerate() {
            for value in [0, -1] {
                if version == 0 && field == 5 && value == -1 {
                    continue;
                }
                let (bytes, at) = put(field, value);
                let expected = if version == 0 && field == 5 { "not 0" } else { "at least 1" };
                let (value, expected) = (value.into(), expected.to_owned());
                check(&bytes, at, Problem::Value { what, value, expected });
            }
        }
        let (heads, at) = put(3, 3);
        let expected = "a multiple of 3".to_owned();
        check(&heads, at + 8, Problem::Value { what: "dim", value: 8, expected });
        let (heads, at) = put(4, 3);
        let expected = "a multiple of 3".to_owned();
        check(&heads, at + 4, Problem::Value { what: "n_heads", value: 4, expected });
        let problem = Problem::Truncated { needed: total, left: total - 1 };
        check(&bytes[..bytes.len() - 1], data, problem);
        let longer = [&bytes[..], &[0; 3]].concat();
        check(&longer, bytes.len() as u64, Problem::Trailing { bytes: 3 });
        for (field, value) in [(1, i32::MAX), (2, i32::MAX), (5, i32::MAX)] {
            let (bytes, _) = put(field, value);
            let CheckpointError::Malformed { source, .. } = open(&bytes).unwrap_err() else {
                panic!()
            };
            assert!(
                matches!(source.problem, Problem::Truncated { .. } | Problem::Value { .. }),
                "{source}"
            );
        }
        for length in (0..300).chain((300..bytes.len()).step_by(97)) {
            assert!(open(&bytes[..length]).is_err(), "v{version} {length}");
        }
    }
    let (mut bytes, _) = file(2, true);
    bytes[36] = 2;
    check(&bytes, 36, Problem::Bool { byte: 2 });
    bytes[36] = 1;
    bytes[37] = 5;
    let expected = "a divisor of 24, the weights of tok_embeddings.weight".to_owned();
    check(&bytes, 37, Problem::Value { what: "group_size", value: 5, expected });
    bytes[4] = 3;
    let supported = "1, 2, and 0 without magic bytes";
    check(&bytes, 4, Problem::Version { version: 3, supported });
}

#[test]
fn scales_that_cannot_be() {
    let (bytes, _) = file(2, true);
    let place = open(&bytes).unwrap();
    let name = "tok_embeddings.weight";
    let codes = place.read(name).unwrap().into_owned();
    let begin = bytes.windows(codes.len()).position(|w| w == codes).unwrap();
    for value in [f32::NAN, f32::INFINITY, -1.0] {
        let mut bytes = bytes.clone();
        bytes[begin + 28..begin + 32].copy_from_slice(&value.to_le_bytes());
        let file = open(&bytes).unwrap();
        for error in [file.read_f32(name).unwrap_err(), file.quant_matrix(name).unwrap_err()] {
            let CheckpointError::Malformed { source, .. } = error else { panic!() };
            assert_eq!(source.item, Item::Tensor(name.to_owned()));
            assert_eq!(source.at, begin as u64 + 28);
            assert!(matches!(source.problem, Problem::Float { what: "a scale", .. }));
        }
    }
}

#[test]
fn vocabularies_that_lie() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.bin");
    let mut bytes = 3u32.to_le_bytes().to_vec();
    for text in ["ab", "", "xyz"] {
        bytes.extend((-1.0f32).to_le_bytes());
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    let tokens = llama2c_vocabulary(&path).unwrap();
    assert_eq!(tokens.iter().map(|t| t.text.len()).collect::<Vec<_>>(), [2, 0, 3]);
    let ends: Vec<usize> = vec![4, 14, 22];
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert_eq!(llama2c_vocabulary(&path).is_ok(), ends.contains(&length), "{length}");
    }
    bytes[8..12].copy_from_slice(&4u32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = llama2c_vocabulary(&path).unwrap_err().to_string();
    assert!(error.contains("token 0 at byte 8: 4 bytes of text"), "{error}");
}
