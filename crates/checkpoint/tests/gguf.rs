//! Reading and writing GGUF: the worked file, round trips, and one test for each way in which a file can lie.

use std::{fs, path::Path};

use fewbit_checkpoint::{
    Access, CheckpointError, Item, Malformed, Problem,
    gguf::{
        Array, GgmlType, Gguf, GgufSpec, GgufWriter, ImportanceMatrix, Metadata, Value, ValueType,
    },
    legacy::{GgmlFile, Llama2c, llama2c_vocabulary},
};
use fewbit_format::{BlockType, bf16, f16};
use fewbit_testkit::Random;
use proptest::prelude::*;

/// A file of two keys and one tensor, 192 bytes.
const WORKED: [&str; 7] = [
    "4747554603000000 0100000000000000 0200000000000000",
    "1400000000000000 67656e6572616c2e617263686974656374757265 08000000 0500000000000000 6c6c616d61",
    "0300000000000000 612e62 04000000 05000000",
    "0100000000000000 74 02000000 0300000000000000 0200000000000000 00000000 0000000000000000",
    "00000000000000000000000000000000000000000000000000000000000000",
    "00000000 0000803f 00000040 00004040 00008040 0000a040",
    "0000000000000000",
];

fn hex(lines: &[&str]) -> Vec<u8> {
    let digits: Vec<u8> = lines.concat().bytes().filter(|b| *b != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn worked_metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert("a.b", 5u32);
    metadata
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn spec(name: &str, kind: GgmlType, dims: &[u64]) -> GgufSpec {
    GgufSpec::new(name, kind, dims)
}

/// The bytes of a file written with these tensors.
fn write(metadata: &Metadata, tensors: &[(GgufSpec, Vec<u8>)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = GgufWriter::create(&out, metadata, specs, None).unwrap();
    for (spec, bytes) in tensors.iter().rev() {
        writer.write(&spec.name, bytes).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), std::slice::from_ref(&out));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::read(out).unwrap()
}

/// What both ways of access say of a file with these bytes.
fn open(bytes: &[u8]) -> Result<Gguf, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    let mapped = Gguf::open(&path);
    let positioned = Gguf::open_with(&path, Access::Positioned);
    match (&mapped, &positioned) {
        (Ok(a), Ok(b)) => assert!(a.tensors().eq(b.tensors())),
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        _ => panic!("the ways of access disagree: {mapped:?} {positioned:?}"),
    }
    mapped
}

/// The error of a file with these bytes.
fn error(bytes: &[u8]) -> Malformed {
    match open(bytes).unwrap_err() {
        CheckpointError::Malformed { file, format, source } => {
            assert!(file.ends_with("x.gguf") && format == "GGUF");
            *source
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_worked_file_is_read_and_written() {
    let bytes = hex(&WORKED);
    assert_eq!(bytes.len(), 192);
    let file = open(&bytes).unwrap();
    assert_eq!((file.version(), file.file_bytes()), (3, 192));
    assert_eq!(file.metadata(), &worked_metadata());
    let tensor = file.tensor("t").unwrap();
    assert_eq!((tensor.dims.as_slice(), tensor.kind), ([3, 2].as_slice(), GgmlType::F32));
    assert_eq!((tensor.offset, tensor.bytes, tensor.part), (0xa0, 24, 0));
    let shape = tensor.matrix_shape();
    assert_eq!((shape.out_features, shape.in_features), (2, 3));
    let values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    assert_eq!(file.read_f32("t").unwrap(), values);

    let tensors = [(spec("t", GgmlType::F32, &[3, 2]), le(&values))];
    assert_eq!(write(&worked_metadata(), &tensors), bytes);
}

#[test]
fn older_versions_are_read() {
    let mut bytes = hex(&WORKED);
    bytes[4] = 2;
    assert_eq!(open(&bytes).unwrap().version(), 2);

    // Version 1: sizes of 32 bits.
    let first = hex(&[
        "47475546 01000000 01000000 02000000",
        "0500000068656c6c6f 08000000 05000000 776f726c64",
        "0100000061 09000000 08000000 02000000 0100000078 00000000",
        "0100000074 02000000 03000000 02000000 00000000 0000000000000000",
    ]);
    let mut bytes = first;
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(le(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    // The last tensor need not be padded.
    let file = open(&bytes).unwrap();
    assert_eq!(file.version(), 1);
    assert_eq!(file.metadata().text("hello").unwrap(), "world");
    assert_eq!(file.metadata().strings("a").unwrap(), ["x", ""]);
    assert_eq!(file.read_f32("t").unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

/// One value of each kind.
fn all_kinds() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("u8", 200u8);
    metadata.insert("i8", -100i8);
    metadata.insert("u16", 60_000u16);
    metadata.insert("i16", -30_000i16);
    metadata.insert("u32", 4_000_000_000u32);
    metadata.insert("i32", -2_000_000_000i32);
    metadata.insert("f32", -1.5f32);
    metadata.insert("yes", true);
    metadata.insert("no", false);
    metadata.insert("text", "żółw\n");
    metadata.insert("empty", "");
    metadata.insert("u64", u64::MAX);
    metadata.insert("i64", i64::MIN);
    metadata.insert("f64", 1e300f64);
    metadata.insert("u8s", vec![1u8, 255]);
    metadata.insert("i8s", vec![-1i8, 127]);
    metadata.insert("u16s", vec![1u16, 65_535]);
    metadata.insert("i16s", vec![-1i16, 32_767]);
    metadata.insert("u32s", vec![u32::MAX, 0]);
    metadata.insert("i32s", vec![i32::MIN, 1]);
    metadata.insert("f32s", vec![f32::MIN_POSITIVE, -0.0]);
    metadata.insert("bools", vec![true, false, true]);
    metadata.insert("texts", vec!["a".to_owned(), String::new(), "ü".to_owned()]);
    metadata.insert("u64s", vec![1u64 << 63]);
    metadata.insert("i64s", vec![-1i64]);
    metadata.insert("f64s", vec![f64::MAX]);
    metadata.insert("none", Vec::<String>::new());
    metadata
}

#[test]
fn all_kinds_of_values_survive() {
    let metadata = all_kinds();
    let bytes = write(&metadata, &[]);
    let file = open(&bytes).unwrap();
    assert_eq!(file.metadata(), &metadata);
    assert!(file.metadata().iter().map(|(key, _)| key).eq(metadata.iter().map(|(key, _)| key)));
    assert_eq!(file.tensors().len(), 0);
}

#[test]
fn values_are_read_as_what_they_fit() {
    let metadata = all_kinds();
    assert_eq!(metadata.u32("u8").unwrap(), 200);
    assert_eq!(metadata.u32("u32").unwrap(), 4_000_000_000);
    assert_eq!(metadata.u64("u64").unwrap(), u64::MAX);
    assert_eq!(metadata.i32("i16").unwrap(), -30_000);
    assert_eq!(metadata.f32("f32").unwrap(), -1.5);
    assert_eq!(metadata.require::<f64>("f32").unwrap(), -1.5);
    assert!(metadata.bool("yes").unwrap() && !metadata.bool("no").unwrap());
    assert_eq!(metadata.text("text").unwrap(), "żółw\n");
    assert_eq!(metadata.integers("u16s").unwrap(), [1, 65_535]);
    assert_eq!(metadata.floats("f32s").unwrap().len(), 2);
    assert_eq!(metadata.bools("bools").unwrap(), [true, false, true]);
    assert_eq!(metadata.find::<u32>("absent").unwrap(), None);
    assert_eq!(metadata.get("none"), Some(&Value::Array(Array::Text(Vec::new()))));
    assert_eq!(metadata.get("f64").unwrap().value_type(), ValueType::F64);

    let message = |error: CheckpointError| error.to_string();
    assert_eq!(
        message(metadata.u32("absent").unwrap_err()),
        "metadata key absent is missing: an integer of 0 to 4294967295 is needed"
    );
    assert_eq!(
        message(metadata.u32("i8").unwrap_err()),
        "metadata key i8 holds the i8 -100, but an integer of 0 to 4294967295 is needed"
    );
    for key in ["u64", "f32", "text", "yes", "u32s"] {
        let error = metadata.u32(key).unwrap_err();
        assert!(matches!(&error, CheckpointError::KeyType { key: k, .. } if k == key), "{error}");
    }
    assert!(message(metadata.strings("u32s").unwrap_err()).contains("holds an array of u32"));
    assert!(metadata.f32("f64").is_err() && metadata.integers("u64s").is_err());
}

/// Values as bits, so that NaN is equal to itself.
fn bits(values: &[f32]) -> impl Iterator<Item = u32> {
    values.iter().map(|v| v.to_bits())
}

#[test]
fn values_of_every_float_and_block_type() {
    let mut random = Random::new(3);
    let values = random.normals(2 * 70 * 512);
    let (wide, dims) = (&values[..], [512u64, 70, 2]);
    let mut tensors = vec![
        (spec("f32", GgmlType::F32, &dims), le(wide)),
        (
            spec("f16", GgmlType::F16, &dims),
            wide.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        ),
        (
            spec("bf16", GgmlType::BF16, &dims),
            wide.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        ),
        (
            spec("f64", GgmlType::F64, &dims),
            wide.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
        ),
    ];
    let mut expected = vec![
        wide.to_vec(),
        wide.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
        wide.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
        wide.to_vec(),
    ];
    for block in BlockType::ALL {
        let kind = GgmlType::from(block);
        assert_eq!(kind.block(), Some(block));
        assert_eq!(kind.block_weights(), block.weights() as u64, "{kind}");
        assert_eq!(kind.block_bytes(), block.bytes() as u64, "{kind}");
        // Any bytes are blocks; some scales are not finite.
        let n_bytes = wide.len() / block.weights() * block.bytes();
        let bytes: Vec<u8> = (0..n_bytes).map(|_| random.bits() as u8).collect();
        let mut decoded = vec![0.0; wide.len()];
        block.decode(&bytes, &mut decoded).unwrap();
        tensors.push((spec(block.name(), kind, &dims), bytes));
        expected.push(decoded);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    fs::write(&path, write(&worked_metadata(), &tensors)).unwrap();
    for access in [Access::Mapped, Access::Positioned] {
        let file = Gguf::open_with(&path, access).unwrap();
        for ((spec, bytes), expected) in tensors.iter().zip(&expected) {
            let name = spec.name.as_str();
            assert_eq!(*file.read(name).unwrap(), **bytes, "{name}");
            assert!(bits(&file.read_f32(name).unwrap()).eq(bits(expected)), "{name}");
            let mut row = vec![0.0; 512];
            file.read_f32_into(name, 512 * 139, &mut row).unwrap();
            assert!(bits(&row).eq(bits(&expected[512 * 139..])), "{name}");
            let mut piece = vec![0; 100];
            file.read_into(name, 37, &mut piece).unwrap();
            assert_eq!(piece, bytes[37..137], "{name}");
            if let Some(block) = spec.kind.block() {
                let matrix = file.block_matrix(name).unwrap();
                assert_eq!((matrix.block_type(), matrix.data()), (block, &bytes[..]));
                assert_eq!(matrix.shape().out_features, 140);
            }
        }
        let range = |result: Result<(), CheckpointError>| {
            assert!(matches!(result, Err(CheckpointError::TensorRange { .. })), "{result:?}");
        };
        range(file.read_into("f32", u64::MAX, &mut [0; 2]));
        range(file.read_into("q4_0", 18 * 2240 - 1, &mut [0; 2]));
        range(file.read_f32_into("q4_0", 16, &mut [0.0; 32]));
        range(file.read_f32_into("q4_0", 32, &mut [0.0; 33]));
        range(file.read_f32_into("f32", 512 * 140, &mut [0.0; 1]));
        let error = file.read("absent").unwrap_err();
        assert!(
            matches!(error, CheckpointError::MissingTensor { tensor, .. } if tensor == "absent")
        );
        assert!(matches!(file.block_matrix("f32"), Err(CheckpointError::CannotDecode { .. })));
    }
}

#[test]
fn types_that_do_not_decode_are_carried() {
    let tensors: Vec<_> = GgmlType::ALL
        .iter()
        .filter(|kind| !kind.decodes())
        .map(|kind| {
            let dims = [kind.block_weights() * 3, 2];
            (
                spec(kind.name(), *kind, &dims),
                vec![kind.id() as u8; 6 * kind.block_bytes() as usize],
            )
        })
        .collect();
    assert_eq!(tensors.len(), 13);
    let file = open(&write(&worked_metadata(), &tensors)).unwrap();
    for (spec, bytes) in &tensors {
        assert_eq!(*file.read(&spec.name).unwrap(), **bytes);
        let error = file.read_f32(&spec.name).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::CannotDecode { tensor, kind } if *tensor == spec.name && *kind == spec.kind),
            "{error}"
        );
    }
}

#[test]
fn type_numbers_names_and_sizes() {
    for &kind in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(kind.id()), Ok(kind));
        assert_eq!(GgmlType::from_name(&kind.name().to_lowercase()), Some(kind));
    }
    assert_eq!(GgmlType::from_name("Q4_2"), None);
    let removed = [4, 5, 31, 32, 33, 36, 37, 38];
    for id in 0..100 {
        match GgmlType::from_id(id) {
            Ok(kind) => assert_eq!(kind.id(), id),
            Err(Problem::RemovedType { id: found, .. }) => {
                assert!(found == id && removed.contains(&id));
            }
            Err(problem) => {
                assert_eq!(problem, Problem::UnknownType { id });
                assert!(!removed.contains(&id));
            }
        }
    }
    assert_eq!(GgmlType::Q4K.tensor_bytes(&[512, 3]), Ok(864));
    assert_eq!(GgmlType::Q6K.bits_per_weight(), 6.5625);
    assert_eq!(GgmlType::F32.tensor_bytes(&[]), Ok(4));
    assert_eq!(GgmlType::F32.tensor_bytes(&[0, 5]), Ok(0));
}

/// Bytes of a file put together by hand.
#[derive(Clone, Default)]
struct Raw {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(name)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let rank = (dims.len() as u32).to_le_bytes();
    [&text(name)[..], &rank, &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

impl Raw {
    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push(key(name, kind, value));
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push(tensor(name, dims, kind, offset));
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = vec![0; bytes];
        self
    }

    fn header(&self) -> Vec<u8> {
        let (n_tensors, n_keys) = (self.tensors.len() as u64, self.keys.len() as u64);
        let counts = [&n_tensors.to_le_bytes()[..], &n_keys.to_le_bytes()].concat();
        [b"GGUF\x03\0\0\0", &counts[..], &self.keys.concat(), &self.tensors.concat()].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

fn check(bytes: &[u8], at: u64, item: Item, problem: Problem) {
    assert_eq!(error(bytes), Malformed { at, item, problem });
}

#[test]
fn impossible_beginnings() {
    let worked = hex(&WORKED);
    let header = |at, bytes: &[u8], problem| check(bytes, at, Item::Header, problem);
    header(0, b"", Problem::Truncated { needed: 4, left: 0 });
    header(0, b"GGU", Problem::Truncated { needed: 4, left: 3 });
    header(4, b"GGUF\x03", Problem::Truncated { needed: 4, left: 1 });
    let found = *b"lmgg";
    header(0, b"lmgg1234", Problem::Magic { found, expected: "GGUF" });
    for version in [0u32, 4, 0x0103] {
        let bytes = [b"GGUF", &version.to_le_bytes()[..], &worked[8..]].concat();
        header(4, &bytes, Problem::Version { version, supported: "1 to 3" });
    }
    let big = [b"GGUF\0\0\0\x03", &worked[8..]].concat();
    header(4, &big, Problem::BigEndian);
    // 168 bytes follow.
    for count in [7, 1 << 60, u64::MAX] {
        let mut bytes = worked.clone();
        bytes[8..16].copy_from_slice(&count.to_le_bytes());
        let limit = 168 / 25;
        header(8, &bytes, Problem::Count { what: "tensors", count, limit });
        let mut bytes = worked.clone();
        bytes[16..24].copy_from_slice(&(count + (count == 7) as u64 * 10).to_le_bytes());
        let (count, limit) = (count + (count == 7) as u64 * 10, 168 / 14);
        header(16, &bytes, Problem::Count { what: "keys", count, limit });
    }
}

#[test]
fn impossible_keys() {
    let bytes = |raw: Raw| raw.bytes();
    let named = |name: &str| Item::Key(name.to_owned());
    let pad = |raw: Raw| raw.key("padding.padding.padding", 10, &[0; 8]);
    let problem = Problem::Name { name: String::new(), problem: "is empty" };
    check(&bytes(pad(Raw::default().key("", 0, &[1]))), 24, Item::Entry(0), problem);
    let long = "k".repeat(65_536);
    let problem = Problem::Name { name: long.clone(), problem: "is longer than 65535 bytes" };
    check(&bytes(Raw::default().key(&long, 0, &[1])), 24, Item::Entry(0), problem);
    let twice = Raw::default().key("a.b", 0, &[1]).key("a.b", 0, &[1]);
    check(&bytes(pad(twice)), 40, named("a.b"), Problem::Duplicate);
    for id in [13, u32::MAX] {
        let raw = pad(Raw::default().key("a", id, &[1]));
        check(&bytes(raw), 33, named("a"), Problem::ValueType { id });
        let array = [&id.to_le_bytes()[..], &[0; 8]].concat();
        let raw = pad(Raw::default().key("a", 9, &array));
        check(&bytes(raw), 37, named("a"), Problem::ValueType { id });
    }
    let nested = [&9u32.to_le_bytes()[..], &[0; 8]].concat();
    check(&bytes(pad(Raw::default().key("a", 9, &nested))), 37, named("a"), Problem::Nested);
    check(&bytes(pad(Raw::default().key("a", 7, &[2]))), 37, named("a"), Problem::Bool { byte: 2 });
    let bools = [&7u32.to_le_bytes()[..], &3u64.to_le_bytes(), &[1, 0, 255]].concat();
    let problem = Problem::Bool { byte: 255 };
    check(&bytes(pad(Raw::default().key("a", 9, &bools))), 51, named("a"), problem);
    let bad = [&2u64.to_le_bytes()[..], &[0xc3, 0x28]].concat();
    check(&bytes(pad(Raw::default().key("a", 8, &bad))), 45, named("a"), Problem::Utf8);
    let mut raw = pad(Raw::default());
    raw.keys[0][8] = 0xff;
    check(&raw.bytes(), 32, Item::Entry(0), Problem::Utf8);

    // Lengths and counts beyond the file.
    for count in [1 << 20, 1 << 60, u64::MAX] {
        let raw = pad(Raw::default().key("a", 8, &count.to_le_bytes()));
        let bytes = raw.bytes();
        let limit = bytes.len() as u64 - 45;
        check(&bytes, 37, named("a"), Problem::Count { what: "bytes of text", count, limit });
        let mut long = pad(Raw::default());
        long.keys[0][..8].copy_from_slice(&count.to_le_bytes());
        let bytes = long.bytes();
        let limit = bytes.len() as u64 - 32;
        check(&bytes, 24, Item::Entry(0), Problem::Count { what: "bytes of text", count, limit });
        for (kind, least) in [(0u32, 1), (3, 2), (6, 4), (7, 1), (8, 8), (12, 8)] {
            let array = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
            let bytes = pad(Raw::default().key("a", 9, &array)).bytes();
            let limit = (bytes.len() as u64 - 49) / least;
            check(&bytes, 41, named("a"), Problem::Count { what: "array elements", count, limit });
        }
    }
    for value in [0u32, 3, 48] {
        let raw = pad(Raw::default().key("general.alignment", 4, &value.to_le_bytes()));
        let at = 24 + 8 + 17 + 4;
        let problem = Problem::Alignment { alignment: value };
        let found = error(&raw.bytes());
        assert_eq!((found.item, found.problem), (named("general.alignment"), problem));
        assert_eq!(found.at, at - 4, "the type comes first");
    }
    let raw = pad(Raw::default().key("general.alignment", 10, &32u64.to_le_bytes()));
    let problem = Problem::KeyType { found: ValueType::U64, expected: "u32" };
    assert_eq!(error(&raw.bytes()).problem, problem);
}

#[test]
fn impossible_tensors() {
    let named = |name: &str| Item::Tensor(name.to_owned());
    let one = |name: &str, dims: &[u64], kind, offset| {
        Raw::default().tensor(name, dims, kind, offset).data(4096).bytes()
    };
    let problem = Problem::Name { name: String::new(), problem: "is empty" };
    check(&one("", &[8], 0, 0), 24, Item::TensorNumber(0), problem);
    let long = "n".repeat(64);
    let problem = Problem::Name { name: long.clone(), problem: "is longer than 63 bytes" };
    check(&one(&long, &[8], 0, 0), 24, Item::TensorNumber(0), problem);
    assert!(open(&one(&long[1..], &[8], 0, 0)).is_ok());
    let problem = Problem::Name { name: "a\0b".into(), problem: "holds a NUL" };
    check(&one("a\0b", &[8], 0, 0), 24, Item::TensorNumber(0), problem);
    let twice = Raw::default().tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(64);
    check(&twice.bytes(), 57, named("t"), Problem::Duplicate);
    check(&one("t", &[1; 5], 0, 0), 33, named("t"), Problem::Rank { rank: 5, limit: 4 });
    for dims in [
        vec![1 << 62, 4],
        vec![u64::MAX],
        vec![1 << 63],
        vec![1 << 20, 1 << 20, 1 << 20, 1 << 20],
        // Elements fit, bytes do not.
        vec![1 << 62],
        vec![0, u64::MAX],
    ] {
        let problem = Problem::Overflow { dims: dims.clone() };
        check(&one("t", &dims, 0, 0), 33, named("t"), problem);
    }
    for id in [43, 99, u32::MAX] {
        check(&one("t", &[8], id, 0), 45, named("t"), Problem::UnknownType { id });
    }
    let problem = Problem::RemovedType { id: 4, name: "Q4_2" };
    check(&one("t", &[8], 4, 0), 45, named("t"), problem);
    for (kind, in_features) in [(GgmlType::Q4_0, 33), (GgmlType::Q4K, 128), (GgmlType::Nvfp4, 96)] {
        let problem = Problem::Row { kind, in_features, block: kind.block_weights() };
        check(&one("t", &[in_features, 2], kind.id(), 0), 33, named("t"), problem);
    }
    // Offsets: off the beginning, overlapping, with a gap, not padded, far away.
    check(&one("t", &[8], 0, 32), 49, named("t"), Problem::Offset { offset: 32, expected: 0 });
    for (offset, expected) in [(0, 64), (32, 64), (36, 64), (96, 64), (1 << 60, 64), (u64::MAX, 64)]
    {
        let raw = Raw::default().tensor("a", &[9], 0, 0).tensor("b", &[8], 0, offset).data(256);
        check(&raw.bytes(), 82, named("b"), Problem::Offset { offset, expected });
    }
    // Data beyond the end of the file.
    for (dims, needed) in [(vec![1025], 4100), (vec![1 << 60], 1 << 62)] {
        let problem = Problem::Truncated { needed, left: 4096 };
        check(&one("t", &dims, 0, 0), 64, named("t"), problem);
    }
    let raw = Raw::default().tensor("a", &[1024], 0, 0).tensor("b", &[8], 0, 4096).data(4100);
    check(&raw.bytes(), 96 + 4096, named("b"), Problem::Truncated { needed: 32, left: 4 });
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = hex(&WORKED);
    for length in 0..bytes.len() - 8 {
        let error = error(&bytes[..length]);
        assert!(
            matches!(error.problem, Problem::Truncated { .. } | Problem::Count { .. }),
            "{length}: {error}"
        );
        assert!(error.at <= length.next_multiple_of(32).max(160) as u64, "{length}: {error}");
    }
    for length in bytes.len() - 8..bytes.len() {
        assert!(open(&bytes[..length]).is_ok(), "only the last padding is missing");
    }
}

#[test]
fn messages_name_place_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    fs::write(&path, Raw::default().tensor("t", &[33, 2], 2, 0).data(64).bytes()).unwrap();
    assert_eq!(
        Gguf::open(&path).unwrap_err().to_string(),
        format!(
            "{} is not a valid GGUF file: tensor t at byte 33: a row of 33 weights is no multiple of the 32 of a Q4_0 block",
            path.display()
        )
    );
}

/// What `create` objects to.
fn unwritable(metadata: &Metadata, specs: Vec<GgufSpec>) -> (Item, Problem) {
    let folder = tempfile::tempdir().unwrap();
    let error = GgufWriter::create(&folder.path().join("x"), metadata, specs, None).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    match error {
        CheckpointError::Unwritable { item, problem } => (item, problem),
        other => panic!("{other}"),
    }
}

#[test]
fn what_nobody_could_read_is_not_written() {
    let f32 = |name: &str, dims: &[u64]| vec![spec(name, GgmlType::F32, dims)];
    let none = Metadata::new();
    let tensor = |specs| unwritable(&none, specs).1;
    let name = |name: &str, problem| Problem::Name { name: name.into(), problem };
    assert_eq!(tensor(f32("", &[1])), name("", "is empty"));
    assert_eq!(tensor(f32("a\0", &[1])), name("a\0", "holds a NUL"));
    let long = "n".repeat(64);
    assert_eq!(tensor(f32(&long, &[1])), name(&long, "is longer than 63 bytes"));
    assert_eq!(tensor([f32("a", &[1]), f32("a", &[1])].concat()), Problem::Duplicate);
    assert_eq!(tensor(f32("a", &[1; 5])), Problem::Rank { rank: 5, limit: 4 });
    let dims = vec![1 << 40, 1 << 40];
    assert_eq!(tensor(f32("a", &dims)), Problem::Overflow { dims });
    let huge = vec![1 << 60];
    let twice =
        [f32("a", &huge), f32("b", &huge), f32("c", &huge), f32("d", &huge), f32("e", &huge)];
    assert_eq!(tensor(twice.concat()), Problem::Overflow { dims: huge });
    let problem = Problem::Row { kind: GgmlType::Q4K, in_features: 64, block: 256 };
    assert_eq!(tensor(vec![spec("a", GgmlType::Q4K, &[64, 4])]), problem);

    let mut metadata = Metadata::new();
    metadata.insert("", 1u8);
    assert_eq!(unwritable(&metadata, vec![]), (Item::Header, name("", "is empty")));
    for (value, problem) in [
        (Value::U32(24), Problem::Alignment { alignment: 24 }),
        (Value::U32(0), Problem::Alignment { alignment: 0 }),
        (Value::I32(32), Problem::KeyType { found: ValueType::I32, expected: "u32" }),
    ] {
        let mut metadata = Metadata::new();
        metadata.insert("general.alignment", value);
        let item = Item::Key("general.alignment".into());
        assert_eq!(unwritable(&metadata, vec![]), (item, problem));
    }
}

#[test]
fn alignment_is_kept() {
    let mut metadata = worked_metadata();
    metadata.insert("general.alignment", 128u32);
    let tensors = [
        (spec("a", GgmlType::F32, &[3]), le(&[1.0, 2.0, 3.0])),
        (spec("b", GgmlType::F32, &[1]), le(&[4.0])),
    ];
    let bytes = write(&metadata, &tensors);
    let file = open(&bytes).unwrap();
    assert!(file.tensors().all(|tensor| tensor.offset % 128 == 0));
    assert_eq!(bytes.len() % 128, 0);
    assert_eq!(file.read_f32("b").unwrap(), [4.0]);
}

#[test]
fn pieces_come_in_order_and_tensors_in_any() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    let specs = vec![
        spec("a", GgmlType::I8, &[10]),
        spec("none", GgmlType::F32, &[0, 3]),
        spec("b", GgmlType::I8, &[4]),
    ];
    let mut writer = GgufWriter::create(&out, &worked_metadata(), specs, None).unwrap();
    writer.write_part("a", 0, &[0, 1, 2]).unwrap();
    writer.write("b", &[9, 8, 7, 6]).unwrap();
    let unexpected = |result: Result<(), CheckpointError>, text: &str| match result {
        Err(error @ CheckpointError::Unexpected { .. }) => {
            assert!(error.to_string().contains(text), "{error}");
        }
        other => panic!("{other:?}"),
    };
    unexpected(writer.write_part("a", 4, &[4]), "with a gap");
    unexpected(writer.write_part("a", 2, &[4]), "a second time");
    unexpected(writer.write("b", &[0; 4]), "a second time");
    unexpected(writer.write("c", &[0; 4]), "was not announced");
    let error = writer.write_part("a", 3, &[0; 8]).unwrap_err();
    assert!(
        matches!(error, CheckpointError::TensorLength { got: 11, expected: 10, .. }),
        "{error}"
    );
    let error = writer.write("a", &[0; 9]).unwrap_err();
    assert!(matches!(error, CheckpointError::TensorLength { got: 9, expected: 10, .. }), "{error}");
    let error = writer.complete().unwrap_err();
    assert!(matches!(error, CheckpointError::TensorLength { got: 3, expected: 10, .. }), "{error}");
    assert!(!out.exists());
    writer.write_part("a", 3, &[3, 4, 5, 6, 7, 8, 9]).unwrap();
    let early = Gguf::open(writer.complete().unwrap()).unwrap();
    assert_eq!(*early.read("a").unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(!out.exists());
    writer.finish().unwrap();
    let file = Gguf::open(&out).unwrap();
    assert_eq!(*file.read("b").unwrap(), [9, 8, 7, 6]);
    assert!(file.read_f32("none").unwrap().is_empty());
}

#[test]
fn nothing_is_left_of_what_was_not_finished() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    let specs = vec![spec("a", GgmlType::I8, &[4])];
    let create = || GgufWriter::create(&out, &worked_metadata(), specs.clone(), None);
    let mut writer = create().unwrap();
    let error = create().unwrap_err();
    assert!(matches!(error, CheckpointError::OutputBusy { .. }), "{error}");
    let error = writer.complete().unwrap_err();
    assert!(matches!(&error, CheckpointError::Unwritten { tensor, missing: 1 } if tensor == "a"));
    assert!(writer.finish().is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    // An output that comes into being meanwhile stays as it is.
    let mut writer = create().unwrap();
    writer.write("a", &[1, 2, 3, 4]).unwrap();
    fs::write(&out, "mine").unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, CheckpointError::OutputExists { .. }), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    assert!(matches!(create(), Err(CheckpointError::OutputExists { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn more_than_the_disk_holds_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    let specs = vec![spec("a", GgmlType::I8, &[1 << 55])];
    let error = GgufWriter::create(&out, &worked_metadata(), specs, None).unwrap_err();
    assert!(matches!(error, CheckpointError::DiskFull { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn split_model(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut metadata = worked_metadata();
    metadata.insert("split.count", 77u16);
    let names = ["a", "b", "c", "d"];
    let specs = names.map(|name| spec(name, GgmlType::I8, &[40])).to_vec();
    let out = folder.join("m.gguf");
    // Two tensors of 64 bytes with their padding go into a file.
    let mut writer = GgufWriter::create(&out, &metadata, specs, Some(130)).unwrap();
    for (i, name) in names.iter().enumerate() {
        writer.write(name, &[i as u8; 40]).unwrap();
    }
    assert_eq!(Gguf::open(writer.complete().unwrap()).unwrap().tensors().len(), 4);
    writer.finish().unwrap()
}

#[test]
fn split_models_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let paths = split_model(folder.path());
    let names: Vec<_> = paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    for access in [Access::Mapped, Access::Positioned] {
        let file = Gguf::open_with(&paths[0], access).unwrap();
        assert!(file.paths().eq(paths.iter().map(|path| path.as_path())));
        assert_eq!(file.metadata().get("split.no"), Some(&Value::U16(0)));
        assert_eq!(file.metadata().get("split.count"), Some(&Value::U16(2)));
        assert_eq!(file.metadata().get("split.tensors.count"), Some(&Value::I32(4)));
        assert_eq!(file.metadata().text("general.architecture").unwrap(), "llama");
        let tensors: Vec<_> = file.tensors().map(|t| (t.name.as_str(), t.part)).collect();
        assert_eq!(tensors, [("a", 0), ("b", 0), ("c", 1), ("d", 1)]);
        for (i, name) in ["a", "b", "c", "d"].iter().enumerate() {
            assert_eq!(*file.read(name).unwrap(), [i as u8; 40]);
        }
    }
    // The same output again is refused, whichever part is there.
    fs::remove_file(&paths[0]).unwrap();
    let specs = vec![spec("a", GgmlType::I8, &[40]), spec("b", GgmlType::I8, &[40])];
    let out = folder.path().join("m.gguf");
    let error = GgufWriter::create(&out, &worked_metadata(), specs, Some(1)).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::OutputExists { path } if *path == paths[1]),
        "{error}"
    );
}

#[test]
fn split_models_that_do_not_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let paths = split_model(folder.path());
    let error = Gguf::open(&paths[1]).unwrap_err();
    assert!(error.to_string().contains("open the first file"), "{error}");
    let other = folder.path().join("other.gguf");
    fs::copy(&paths[0], &other).unwrap();
    let error = Gguf::open(&other).unwrap_err();
    assert!(matches!(error, CheckpointError::SplitName { count: 2, .. }), "{error}");

    let second = fs::read(&paths[1]).unwrap();
    fs::remove_file(&paths[1]).unwrap();
    let error = Gguf::open(&paths[0]).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::MissingSplit { file, number: 2, count: 2 } if *file == paths[1]),
        "{error}"
    );
    fs::copy(&paths[0], &paths[1]).unwrap();
    let error = Gguf::open(&paths[0]).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Split { key: "split.no", found: 0, expected: 1, .. }),
        "{error}"
    );
    // A tensor that the first file has as well.
    let mut bytes = second.clone();
    let name = bytes.windows(9).position(|w| w == b"\x01\0\0\0\0\0\0\0c").unwrap();
    bytes[name + 8] = b'a';
    fs::write(&paths[1], &bytes).unwrap();
    let error = Gguf::open(&paths[0]).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::TensorInTwoShards { tensor, .. } if tensor == "a"),
        "{error}"
    );
    // Another number of tensors than the first file says.
    fs::write(&paths[1], &second).unwrap();
    let mut first = fs::read(&paths[0]).unwrap();
    let at = first.windows(19).position(|w| w == b"split.tensors.count").unwrap() + 23;
    first[at] = 5;
    fs::write(&paths[0], &first).unwrap();
    let error = Gguf::open(&paths[0]).unwrap_err();
    assert!(matches!(&error, CheckpointError::Split { found: 5, expected: 4, .. }), "{error}");
}

fn value() -> impl Strategy<Value = Value> {
    let text = "[^\\x00]{0,12}";
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        proptest::num::f32::ANY.prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        text.prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::num::f64::ANY.prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::from),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(Value::from),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Value::from),
        prop::collection::vec(proptest::num::f32::ANY, 0..9).prop_map(Value::from),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Value::from),
        prop::collection::vec(text, 0..9).prop_map(Value::from),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(Value::from),
    ]
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    prop::collection::vec(("[a-z][a-z0-9_.]{0,20}", value()), 0..20)
        .prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn metadata_survives(metadata in any_metadata(), sizes in prop::collection::vec(0u64..70, 0..6)) {
        let tensors: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(i, &n)| (spec(&format!("t{i}"), GgmlType::I16, &[n, 2]), vec![i as u8; 4 * n as usize]))
            .collect();
        let bytes = write(&metadata, &tensors);
        let file = open(&bytes).unwrap();
        prop_assert_eq!(file.metadata().len(), metadata.len());
        for (spec, bytes) in &tensors {
            prop_assert_eq!(&*file.read(&spec.name).unwrap(), &bytes[..]);
        }
        // NaN is not equal to itself; its bytes are.
        prop_assert_eq!(write(file.metadata(), &tensors), bytes);
    }

    #[test]
    fn damaged_files_do_no_harm(at in 0usize..192, byte: u8, length in 0usize..=192) {
        let mut bytes = hex(&WORKED);
        bytes[at] = byte;
        bytes.truncate(length);
        if let Ok(file) = open(&bytes) {
            for tensor in file.tensors() {
                prop_assert_eq!(tensor.bytes, 24);
            }
        }
    }
}

#[test]
fn seeds_of_the_fuzz_targets_are_valid() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let each = |target: &str, check: &dyn Fn(&Path) -> Result<(), CheckpointError>| {
        let entries = fs::read_dir(seeds.join(target)).unwrap();
        for path in entries.map(|entry| entry.unwrap().path()) {
            check(&path).unwrap_or_else(|error| panic!("{error}"));
        }
    };
    each("gguf", &|path| Gguf::open(path).map(drop));
    each("imatrix", &|path| ImportanceMatrix::read(path).map(drop));
    each("legacy", &|path| match path.file_name().unwrap().to_str().unwrap() {
        "tokenizer" => llama2c_vocabulary(path).map(drop),
        // The first of two files: the second is missing.
        "parts" => Ok(()),
        name if name.starts_with("llama2c") => Llama2c::open(path).map(drop),
        _ => GgmlFile::open(path).map(drop),
    });
}
