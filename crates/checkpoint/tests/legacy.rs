//! llama.cpp's files before GGUF: every version and type, models in several files, and one test for each way in which a file can lie.

use std::{fs, path::Path};

use fewbit_checkpoint::{
    Access, CheckpointError, Item, Malformed, Problem,
    gguf::{GgmlType, Gguf, Value},
    legacy::{GgmlFile, GgmlVersion, LegacyFile, LegacySettings},
};
use fewbit_format::{BlockType, f16};
use fewbit_testkit::Random;
use proptest::prelude::*;

const HYPERPARAMETERS: [u32; 7] = [3, 64, 256, 4, 2, 16, 2];
const VERSIONS: [(GgmlVersion, &[u8]); 5] = [
    (GgmlVersion::Ggml, b"lmgg"),
    (GgmlVersion::Ggmf, b"fmgg\x01\0\0\0"),
    (GgmlVersion::Ggjt1, b"tjgg\x01\0\0\0"),
    (GgmlVersion::Ggjt2, b"tjgg\x02\0\0\0"),
    (GgmlVersion::Ggjt3, b"tjgg\x03\0\0\0"),
];
const BLOCKS: [GgmlType; 5] =
    [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0, GgmlType::Q5_1, GgmlType::Q8_0];

/// Name, dimensions, type, bytes.
type Tensor<'a> = (&'a str, &'a [u32], u32, Vec<u8>);

/// A file of three tokens and these tensors.
fn file(version: GgmlVersion, tensors: &[Tensor<'_>]) -> Vec<u8> {
    let magic = VERSIONS.iter().find(|(v, _)| *v == version).unwrap().1;
    let mut bytes = magic.to_vec();
    bytes.extend(HYPERPARAMETERS.iter().flat_map(|v| v.to_le_bytes()));
    for (text, score) in [(&b"<unk>"[..], 0.0f32), (b" the", -1.5), (b"\xff", -2.0)] {
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text);
        if version != GgmlVersion::Ggml {
            bytes.extend(score.to_le_bytes());
        }
    }
    for (name, dims, kind, data) in tensors {
        let head = [dims.len() as u32, name.len() as u32, *kind];
        bytes.extend(head.iter().chain(*dims).flat_map(|v| v.to_le_bytes()));
        bytes.extend(name.as_bytes());
        if !matches!(version, GgmlVersion::Ggml | GgmlVersion::Ggmf) {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        bytes.extend(data);
    }
    bytes
}

fn open(bytes: &[u8]) -> Result<GgmlFile, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    fs::write(&path, bytes).unwrap();
    let mapped = GgmlFile::open(&path);
    let positioned = GgmlFile::open_with(&path, Access::Positioned);
    match (&mapped, &positioned) {
        (Ok(a), Ok(b)) => assert!(a.tensors().eq(b.tensors())),
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        _ => panic!("the ways of access disagree: {mapped:?} {positioned:?}"),
    }
    mapped
}

fn check(bytes: &[u8], at: u64, item: Item, problem: Problem) {
    match open(bytes).unwrap_err() {
        CheckpointError::Malformed { source, .. } => {
            assert_eq!(*source, Malformed { at, item, problem });
        }
        other => panic!("{other}"),
    }
}

/// Parameters and codes of one block.
struct Block {
    scale: f32,
    min: f32,
    codes: Vec<i32>,
}

impl Block {
    fn random(kind: GgmlType, halves: bool, random: &mut Random) -> Self {
        let mut parameter = || {
            let value = random.normal() as f32;
            if halves { f16::from_f32(value).to_f32() } else { value }
        };
        let (scale, min) = (parameter(), parameter());
        let levels = match kind {
            GgmlType::Q4_0 | GgmlType::Q4_1 => 16,
            GgmlType::Q5_0 | GgmlType::Q5_1 => 32,
            _ => 256,
        };
        let codes = (0..32).map(|_| random.below(levels) as i32).collect();
        Self { scale, min, codes }
    }

    fn bytes(&self, kind: GgmlType, version: GgmlVersion) -> Vec<u8> {
        let wide = version != GgmlVersion::Ggjt3
            && matches!(kind, GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q8_0);
        let pairs = !matches!(version, GgmlVersion::Ggjt2 | GgmlVersion::Ggjt3);
        let mut bytes = Vec::new();
        let affine = matches!(kind, GgmlType::Q4_1 | GgmlType::Q5_1);
        for value in [self.scale, self.min].iter().take(1 + usize::from(affine)) {
            match wide {
                true => bytes.extend(value.to_le_bytes()),
                false => bytes.extend(f16::from_f32(*value).to_le_bytes()),
            }
        }
        if kind == GgmlType::Q8_0 {
            bytes.extend(self.codes.iter().map(|&code| (code - 128) as u8));
            return bytes;
        }
        if matches!(kind, GgmlType::Q5_0 | GgmlType::Q5_1) {
            let fifth: u32 = (0..32).map(|e| (self.codes[e] as u32 >> 4) << e).sum();
            bytes.extend(fifth.to_le_bytes());
        }
        for j in 0..16 {
            let (low, high) = if pairs { (2 * j, 2 * j + 1) } else { (j, j + 16) };
            bytes.push((self.codes[low] & 15 | (self.codes[high] & 15) << 4) as u8);
        }
        bytes
    }

    fn values(&self, kind: GgmlType) -> Vec<f32> {
        let value = |&code: &i32| match kind {
            GgmlType::Q4_0 => (code - 8) as f32 * self.scale,
            GgmlType::Q5_0 => (code - 16) as f32 * self.scale,
            GgmlType::Q8_0 => (code - 128) as f32 * self.scale,
            _ => code as f32 * self.scale + self.min,
        };
        self.codes.iter().map(value).collect()
    }
}

#[test]
fn every_version_and_type() {
    let mut random = Random::new(7);
    for (version, _) in VERSIONS {
        for kind in BLOCKS {
            // With f16 parameters throughout, every block has a twin in GGUF.
            let blocks: Vec<Block> =
                (0..6).map(|_| Block::random(kind, true, &mut random)).collect();
            let bytes: Vec<u8> = blocks.iter().flat_map(|b| b.bytes(kind, version)).collect();
            let floats = [1.0f32, -2.5, f32::MIN_POSITIVE];
            let raw: Vec<u8> = floats.iter().flat_map(|v| v.to_le_bytes()).collect();
            let tensors = [
                ("norm.weight", &[3u32][..], 0, raw),
                ("layers.0.attention.wq.weight", &[64, 3], kind.id(), bytes.clone()),
            ];
            let file = open(&file(version, &tensors)).unwrap();
            assert_eq!(file.version(), version);
            let parameters = file.hyperparameters();
            assert_eq!((parameters.n_vocab, parameters.n_embd, parameters.ftype), (3, 64, 2));
            assert_eq!((parameters.n_mult, parameters.n_head), (256, 4));
            assert_eq!((parameters.n_layer, parameters.n_rot), (2, 16));
            assert_eq!(file.vocabulary()[2].text, b"\xff");
            let score = if version == GgmlVersion::Ggml { 0.0 } else { -1.5 };
            assert_eq!(file.vocabulary()[1].score, score);

            assert_eq!(file.read_f32("norm.weight").unwrap(), floats);
            let name = "layers.0.attention.wq.weight";
            assert_eq!(file.tensor(name).unwrap().dims, [64, 3]);
            assert_eq!(*file.read(name).unwrap(), *bytes);
            let values: Vec<f32> = blocks.iter().flat_map(|b| b.values(kind)).collect();
            assert_eq!(file.read_f32(name).unwrap(), values, "{version:?} {kind}");
            let modern = file.read_modern(name).unwrap().unwrap();
            let expected: Vec<u8> =
                blocks.iter().flat_map(|b| b.bytes(kind, GgmlVersion::Ggjt3)).collect();
            assert_eq!(*modern, *expected, "{version:?} {kind}");
            let mut decoded = vec![0.0; values.len()];
            let block = BlockType::from_name(kind.name()).unwrap();
            block.decode(&modern, &mut decoded).unwrap();
            assert_eq!(decoded, values, "{version:?} {kind}");
            let error = file.read("absent").unwrap_err();
            assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error}");
        }
    }
}

#[test]
fn scales_that_no_f16_holds_decode_but_do_not_move() {
    let mut random = Random::new(8);
    for version in [GgmlVersion::Ggml, GgmlVersion::Ggjt1, GgmlVersion::Ggjt2] {
        for kind in [GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q8_0] {
            let block = Block::random(kind, false, &mut random);
            let tensors = [("w", &[32u32, 1][..], kind.id(), block.bytes(kind, version))];
            let file = open(&file(version, &tensors)).unwrap();
            assert_eq!(file.read_f32("w").unwrap(), block.values(kind));
            assert_eq!(file.read_modern("w").unwrap(), None);
        }
    }
}

#[test]
fn blocks_of_256_in_the_last_version_only() {
    for kind in [GgmlType::Q2K, GgmlType::Q3K, GgmlType::Q4K, GgmlType::Q5K, GgmlType::Q6K] {
        let bytes = vec![0x11; 2 * kind.block_bytes() as usize];
        let tensors = [("w", &[256u32, 2][..], kind.id(), bytes.clone())];
        let last = open(&file(GgmlVersion::Ggjt3, &tensors)).unwrap();
        let mut expected = vec![0.0; 512];
        kind.block().unwrap().decode(&bytes, &mut expected).unwrap();
        assert_eq!(last.read_f32("w").unwrap(), expected);
        assert_eq!(*last.read_modern("w").unwrap().unwrap(), *bytes);
        let problem = Problem::UnknownType { id: kind.id() };
        let before = file(GgmlVersion::Ggjt2, &tensors);
        check(&before, 70 + 8, Item::Tensor("w".into()), problem);
    }
}

/// A model in two files and the same in one.
fn in_two_files(folder: &Path) -> [std::path::PathBuf; 3] {
    let mut random = Random::new(9);
    let version = GgmlVersion::Ggmf;
    let kind = GgmlType::Q4_0;
    let mut row = |blocks: usize| -> Vec<u8> {
        (0..blocks)
            .flat_map(|_| Block::random(kind, true, &mut random).bytes(kind, version))
            .collect()
    };
    // Four rows of 64: by in_features, each file has 32 of every row; by out_features, two rows.
    let mut matrix = || -> Vec<Vec<u8>> { (0..4).map(|_| row(2)).collect() };
    let by_columns = [
        "tok_embeddings.weight",
        "layers.0.attention.wo.weight",
        "layers.0.feed_forward.w2.weight",
    ];
    let by_rows =
        ["output.weight", "layers.0.attention.wq.weight", "layers.0.feed_forward.w1.weight"];
    let norm: Vec<u8> = (0..64).flat_map(|v| (v as f32).to_le_bytes()).collect();
    type Tensor<'a> = (&'a str, &'a [u32], u32, Vec<u8>);
    let mut files: [Vec<Tensor<'_>>; 3] = Default::default();
    for name in by_columns {
        let rows = matrix();
        files[0].push((name, &[64, 4], 2, rows.concat()));
        files[1].push((name, &[32, 4], 2, rows.iter().flat_map(|r| r[..20].to_vec()).collect()));
        files[2].push((name, &[32, 4], 2, rows.iter().flat_map(|r| r[20..].to_vec()).collect()));
    }
    for name in by_rows {
        let rows = matrix();
        files[0].push((name, &[64, 4], 2, rows.concat()));
        files[1].push((name, &[64, 2], 2, rows[..2].concat()));
        files[2].push((name, &[64, 2], 2, rows[2..].concat()));
    }
    for tensors in &mut files {
        tensors.push(("norm.weight", &[64], 0, norm.clone()));
    }
    let paths = ["whole.bin", "x.bin", "x.bin.1"].map(|name| folder.join(name));
    for (path, tensors) in paths.iter().zip(&files) {
        fs::write(path, file(version, tensors)).unwrap();
    }
    paths
}

#[test]
fn models_in_several_files_are_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, first, second] = in_two_files(folder.path());
    let whole = GgmlFile::open(&whole).unwrap();
    for access in [Access::Mapped, Access::Positioned] {
        let parts = GgmlFile::open_with(&first, access).unwrap();
        assert_eq!(parts.tensors().len(), 7);
        for (a, b) in whole.tensors().zip(parts.tensors()) {
            assert_eq!((&a.name, &a.dims, a.kind, a.bytes), (&b.name, &b.dims, b.kind, b.bytes));
            let name = a.name.as_str();
            assert_eq!(whole.read(name).unwrap(), parts.read(name).unwrap(), "{name}");
            assert_eq!(whole.read_f32(name).unwrap(), parts.read_f32(name).unwrap(), "{name}");
        }
    }
    let tensors = [("tok_embeddings.weight", &[32u32, 4][..], 2, vec![0; 80])];
    fs::write(&second, file(GgmlVersion::Ggmf, &tensors)).unwrap();
    let error = GgmlFile::open(&first).unwrap_err();
    assert!(matches!(error, CheckpointError::PartShape { .. }), "{error}");
    fs::remove_file(&second).unwrap();
    let error = GgmlFile::open(&first).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::MissingSplit { file, number: 2, count: 2 } if *file == second),
        "{error}"
    );
    let tensors = [("tok_embeddings.weight", &[48u32, 4][..], 0, vec![0; 768])];
    let error = open(&file(GgmlVersion::Ggmf, &tensors)).unwrap_err();
    assert!(matches!(error, CheckpointError::PartShape { .. }), "{error}");
}

#[test]
fn rows_of_no_weights_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [
        ("tok_embeddings.weight", &[32u32, 1][..], 2, vec![0; 20]),
        ("layers.0.attention.wo.weight", &[0, u32::MAX], 0, Vec::new()),
    ];
    let bytes = file(GgmlVersion::Ggml, &tensors);
    for name in ["x.bin", "x.bin.1"] {
        fs::write(folder.path().join(name), &bytes).unwrap();
    }
    let file = GgmlFile::open(&folder.path().join("x.bin")).unwrap();
    assert!(file.read("layers.0.attention.wo.weight").unwrap().is_empty());
    assert!(file.read_f32("layers.0.attention.wo.weight").unwrap().is_empty());
}

#[test]
fn impossible_files() {
    let version = GgmlVersion::Ggjt1;
    let good = file(version, &[("w", &[32, 2], 2, vec![0; 40])]);
    assert!(open(&good).is_ok());
    let header = |bytes: &[u8], at, problem| check(bytes, at, Item::Header, problem);
    let swap = |magic: &[u8]| [magic, &good[magic.len()..]].concat();
    for version in [0, 4, 9] {
        let supported = "1 to 3";
        header(
            &swap(&[b't', b'j', b'g', b'g', version]),
            4,
            Problem::Version { version: version.into(), supported },
        );
    }
    header(&swap(b"fmgg\x02"), 4, Problem::Version { version: 2, supported: "1" });
    header(&swap(b"abcd"), 0, Problem::Magic { found: *b"abcd", expected: "lmgg, fmgg or tjgg" });
    for magic in [b"algg", b"nsgg", b"GGUF"] {
        let CheckpointError::Malformed { source, .. } = open(&swap(magic)).unwrap_err() else {
            panic!()
        };
        assert!(matches!(source.problem, Problem::Unsupported { .. }), "{source}");
    }
    // A vocabulary that the file cannot hold.
    let mut many = good.clone();
    many[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let limit = (good.len() as u64 - 36) / 8;
    let count = u32::MAX.into();
    header(&many, 8, Problem::Count { what: "tokens", count, limit });
    let mut long = good.clone();
    long[36..40].copy_from_slice(&4096u32.to_le_bytes());
    let problem = Problem::Count { what: "bytes of text", count: 4096, limit: 4095 };
    check(&long, 36, Item::Token(0), problem);

    // The first tensor begins at byte 70.
    let tensor = |name: &str, dims: &[u32], kind: u32, bytes: usize| {
        file(version, &[(name, dims, kind, vec![0; bytes])])
    };
    let (number, named) = (Item::TensorNumber(0), Item::Tensor("w".to_owned()));
    let rank = |rank| Problem::Rank { rank, limit: 2 };
    check(&tensor("w", &[], 0, 0), 70, number.clone(), rank(0));
    check(&tensor("w", &[1; 3], 0, 4), 70, number.clone(), rank(3));
    let name = Problem::Name { name: String::new(), problem: "is empty" };
    check(&tensor("", &[1], 0, 4), 86, number.clone(), name);
    let problem = Problem::RemovedType { id: 4, name: "Q4_2" };
    check(&tensor("w", &[32], 4, 64), 78, named.clone(), problem);
    check(&tensor("w", &[32], 30, 64), 78, named.clone(), Problem::UnknownType { id: 30 });
    check(&tensor("w", &[32], 77, 64), 78, named.clone(), Problem::UnknownType { id: 77 });
    let problem = Problem::Row { kind: GgmlType::Q4_0, in_features: 33, block: 32 };
    check(&tensor("w", &[33, 2], 2, 64), 82, named.clone(), problem);
    let problem = Problem::Truncated { needed: 40, left: 39 };
    check(&tensor("w", &[32, 2], 2, 39), 96, named.clone(), problem);
    let dims = [u32::MAX / 32 * 32, u32::MAX];
    let needed = u64::from(dims[0]) * u64::from(dims[1]) / 32 * 20;
    let problem = Problem::Truncated { needed, left: 40 };
    check(&tensor("w", &dims, 2, 40), 96, named.clone(), problem);
    let dims = [u32::MAX; 2];
    let problem = Problem::Overflow { dims: vec![u32::MAX.into(); 2] };
    check(&tensor("w", &dims, 0, 40), 82, named.clone(), problem);
    let twice = [("w", &[8u32][..], 0, vec![0; 32]), ("w", &[8], 0, vec![0; 32])];
    check(&file(version, &twice), 128, named, Problem::Duplicate);

    for length in 0..good.len() {
        // A file may end before a tensor, not within one.
        assert!(open(&good[..length]).is_err() || length == 70, "{length}");
    }
}

/// The name of a tensor in GGUF.
fn gguf_name(name: &str) -> String {
    let names = [
        ("tok_embeddings", "token_embd"),
        ("attention_norm", "attn_norm"),
        ("attention.wq", "attn_q"),
        ("attention.wk", "attn_k"),
        ("attention.wv", "attn_v"),
        ("attention.wo", "attn_output"),
        ("feed_forward.w1", "ffn_gate"),
        ("feed_forward.w2", "ffn_down"),
        ("feed_forward.w3", "ffn_up"),
        ("layers.", "blk."),
    ];
    let name = if name == "norm.weight" { "output_norm.weight" } else { name };
    names.iter().fold(name.to_owned(), |name, (ours, gguf)| name.replace(ours, gguf))
}

#[test]
fn files_that_llama_cpp_converted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/legacy");
    for name in ["ggjt2", "ggjt3"] {
        let old = GgmlFile::open(&folder.join(format!("{name}.bin"))).unwrap();
        let new = Gguf::open(&folder.join(format!("{name}.gguf"))).unwrap();
        let parameters = old.hyperparameters();
        let number = |key: &str| new.metadata().u32(key).unwrap();
        assert_eq!(parameters.n_embd, number("llama.embedding_length"));
        assert_eq!(parameters.n_layer, number("llama.block_count"));
        assert_eq!(parameters.n_head, number("llama.attention.head_count"));
        assert_eq!(parameters.n_rot, number("llama.rope.dimension_count"));
        let scores: Vec<f32> = old.vocabulary().iter().map(|token| token.score).collect();
        assert_eq!(scores, new.metadata().floats("tokenizer.ggml.scores").unwrap());
        let tokens = new.metadata().strings("tokenizer.ggml.tokens").unwrap();
        assert_eq!(old.vocabulary()[0].text, tokens[0].as_bytes());
        assert_eq!(old.vocabulary()[7].text, tokens[7].as_bytes());

        assert_eq!(old.tensors().len(), new.tensors().len());
        for tensor in old.tensors() {
            let (name, gguf) = (tensor.name.as_str(), gguf_name(&tensor.name));
            let theirs = new.tensor(&gguf).unwrap();
            assert_eq!((&tensor.dims, tensor.kind), (&theirs.dims, theirs.kind), "{name}");
            assert_eq!(old.read_modern(name).unwrap().unwrap(), new.read(&gguf).unwrap(), "{name}");
            assert_eq!(old.read_f32(name).unwrap(), new.read_f32(&gguf).unwrap(), "{name}");
        }
    }
}

#[test]
fn our_gguf_files_are_those_of_the_converter() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/legacy");
    let temporary = tempfile::tempdir().unwrap();
    for name in ["ggjt2", "ggjt3"] {
        let old = LegacyFile::open_with(&folder.join(format!("{name}.bin")), Access::Mapped);
        let old = old.unwrap();
        let out = temporary.path().join(format!("{name}.gguf"));
        let unsaid = old.write_gguf(&out, &LegacySettings::default()).unwrap_err();
        assert!(matches!(unsaid, CheckpointError::LegacySetting { .. }), "{unsaid}");
        let theirs = Gguf::open(&folder.join(format!("{name}.gguf"))).unwrap();
        let Some(Value::F32(eps)) =
            theirs.metadata().get("llama.attention.layer_norm_rms_epsilon").cloned()
        else {
            panic!("{name}")
        };
        let settings = LegacySettings {
            norm_eps: Some(eps),
            context_length: Some(theirs.metadata().u32("llama.context_length").unwrap()),
            ..Default::default()
        };
        old.write_gguf(&out, &settings).unwrap();
        let ours = Gguf::open(&out).unwrap();
        assert_eq!(ours.tensors().len(), theirs.tensors().len());
        for tensor in theirs.tensors() {
            let found = ours.tensor(&tensor.name).unwrap();
            assert_eq!((&found.dims, found.kind), (&tensor.dims, tensor.kind), "{}", tensor.name);
            assert_eq!(ours.read(&tensor.name).unwrap(), theirs.read(&tensor.name).unwrap());
        }
        for key in [
            "general.architecture",
            "llama.context_length",
            "llama.embedding_length",
            "llama.block_count",
            "llama.feed_forward_length",
            "llama.attention.head_count",
            "llama.attention.head_count_kv",
            "llama.attention.layer_norm_rms_epsilon",
            "llama.rope.dimension_count",
            "tokenizer.ggml.model",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.scores",
            "tokenizer.ggml.token_type",
            "tokenizer.ggml.bos_token_id",
            "tokenizer.ggml.eos_token_id",
            "tokenizer.ggml.unknown_token_id",
        ] {
            assert_eq!(ours.metadata().get(key), theirs.metadata().get(key), "{name}: {key}");
        }
    }
}

proptest! {
    #[test]
    fn damaged_files_do_no_harm(at in 0usize..136, byte: u8, length in 0usize..=136, version in 0usize..5) {
        let mut bytes = file(VERSIONS[version].0, &[("w", &[32, 2], 2, vec![3; 40])]);
        let at = at.min(bytes.len() - 1);
        bytes[at] = byte;
        bytes.truncate(length);
        if let Ok(file) = open(&bytes) {
            for tensor in file.tensors() {
                prop_assert!(tensor.bytes <= 136);
                file.read_f32(&tensor.name).unwrap();
                let _ = file.read_modern(&tensor.name).unwrap();
            }
        }
    }
}
