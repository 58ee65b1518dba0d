//! GGUF files of the `gguf` Python package and of llama.cpp: read with the same metadata, names, bytes and values, and written again byte for
//! byte. See `testdata/gguf/README.md`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::gguf::{
    Array, Gguf, GgufSpec, GgufWriter, ImportanceMatrix, Metadata, Value, ValueType,
};
use fewbit_testkit::crc32;
use serde_json::{Value as Json, json};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gguf").join(name)
}

fn read_json(name: &str) -> Json {
    serde_json::from_slice(&fs::read(testdata(name)).unwrap()).unwrap()
}

/// The name of a type in Python.
fn type_name(kind: ValueType) -> &'static str {
    match kind {
        ValueType::U8 => "uint8",
        ValueType::I8 => "int8",
        ValueType::U16 => "uint16",
        ValueType::I16 => "int16",
        ValueType::U32 => "uint32",
        ValueType::I32 => "int32",
        ValueType::F32 => "float32",
        ValueType::Bool => "bool",
        ValueType::Text => "string",
        ValueType::Array => "array",
        ValueType::U64 => "uint64",
        ValueType::I64 => "int64",
        ValueType::F64 => "float64",
    }
}

fn value_json(value: &Value) -> (Json, Json) {
    let scalar = json!(type_name(value.value_type()));
    match value {
        Value::U8(v) => (scalar, json!(v)),
        Value::I8(v) => (scalar, json!(v)),
        Value::U16(v) => (scalar, json!(v)),
        Value::I16(v) => (scalar, json!(v)),
        Value::U32(v) => (scalar, json!(v)),
        Value::I32(v) => (scalar, json!(v)),
        Value::F32(v) => (scalar, json!(f64::from(*v))),
        Value::Bool(v) => (scalar, json!(v)),
        Value::Text(v) => (scalar, json!(v)),
        Value::U64(v) => (scalar, json!(v)),
        Value::I64(v) => (scalar, json!(v)),
        Value::F64(v) => (scalar, json!(v)),
        Value::Array(array) => (json!([type_name(array.value_type())]), array_json(array)),
    }
}

fn array_json(array: &Array) -> Json {
    match array {
        Array::U8(v) => json!(v),
        Array::I8(v) => json!(v),
        Array::U16(v) => json!(v),
        Array::I16(v) => json!(v),
        Array::U32(v) => json!(v),
        Array::I32(v) => json!(v),
        Array::F32(v) => v.iter().map(|v| f64::from(*v)).collect(),
        Array::Bool(v) => json!(v),
        Array::Text(v) => json!(v),
        Array::U64(v) => json!(v),
        Array::I64(v) => json!(v),
        Array::F64(v) => json!(v),
    }
}

fn metadata_json(metadata: &Metadata) -> Json {
    let entry = |(key, value): (&str, &Value)| {
        let (kind, value) = value_json(value);
        json!([key, kind, value])
    };
    metadata.iter().map(entry).collect()
}

/// What the Python package says of the tensors of a part, said by us.
fn tensors_json(file: &Gguf, part: usize) -> Json {
    let of_part = file.tensors().filter(|tensor| tensor.part == part);
    let entry = of_part.map(|tensor| {
        let bytes = crc32(&file.read(&tensor.name).unwrap());
        let values = file
            .read_f32(&tensor.name)
            .ok()
            .map(|values| crc32(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()));
        json!([tensor.name, tensor.kind.name(), tensor.dims, bytes, values])
    });
    entry.collect()
}

/// Writes everything in a file again.
fn rewrite(file: &Gguf, split_bytes: Option<u64>, out: &Path) -> Vec<PathBuf> {
    let specs = file.tensors().map(|t| GgufSpec::new(&t.name, t.kind, t.dims.as_slice()));
    let mut writer =
        GgufWriter::create(out, file.metadata(), specs.collect(), split_bytes).unwrap();
    for tensor in file.tensors() {
        writer.write(&tensor.name, &file.read(&tensor.name).unwrap()).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn files_of_the_python_package() {
    for name in ["kinds", "aligned"] {
        let file = Gguf::open(&testdata(&format!("{name}.gguf"))).unwrap();
        let expected = read_json(&format!("{name}.json"));
        assert_eq!(metadata_json(file.metadata()), expected["metadata"], "{name}");
        let (tensors, expected) = (tensors_json(&file, 0), &expected["tensors"]);
        for (ours, theirs) in tensors.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
            assert_eq!(ours, theirs, "{name}");
        }
        assert_eq!(tensors.as_array().unwrap().len(), expected.as_array().unwrap().len());

        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("again.gguf");
        rewrite(&file, None, &out);
        let original = fs::read(testdata(&format!("{name}.gguf"))).unwrap();
        assert!(fs::read(&out).unwrap() == original, "{name} is not written as it was");
    }
}

#[test]
fn a_split_model_of_the_python_package() {
    let names = [1, 2, 3].map(|number| format!("split-{number:05}-of-00003"));
    let file = Gguf::open(&testdata(&format!("{}.gguf", names[0]))).unwrap();
    assert_eq!(file.paths().len(), 3);
    for (part, name) in names.iter().enumerate() {
        let expected = read_json(&format!("{name}.json"));
        assert_eq!(tensors_json(&file, part), expected["tensors"], "{name}");
        if part == 0 {
            assert_eq!(metadata_json(file.metadata()), expected["metadata"]);
        }
    }
    for i in 0..5 {
        let name = format!("t{i}");
        assert_eq!(file.read_f32(&name).unwrap(), [i as f32; 6]);
    }
    // A tensor takes 32 bytes with its padding.
    let folder = tempfile::tempdir().unwrap();
    let paths = rewrite(&file, Some(64), &folder.path().join("split.gguf"));
    for (path, name) in paths.iter().zip(&names) {
        assert_eq!(path.file_stem().unwrap().to_str(), Some(name.as_str()));
        let original = fs::read(testdata(&format!("{name}.gguf"))).unwrap();
        assert!(fs::read(path).unwrap() == original, "{name} is not written as it was");
    }
    // The same in one file, without the keys that tie files together.
    let paths = rewrite(&file, None, &folder.path().join("whole.gguf"));
    let whole = Gguf::open(&paths[0]).unwrap();
    assert_eq!(whole.metadata().len(), 2);
    assert!(whole.tensors().map(|t| &t.name).eq(file.tensors().map(|t| &t.name)));
}

#[test]
fn importance_matrices_of_llama_cpp() {
    let gguf = ImportanceMatrix::read(&testdata("imatrix.gguf")).unwrap();
    let dat = ImportanceMatrix::read(&testdata("imatrix.dat")).unwrap();
    assert_eq!((gguf.chunk_count, gguf.chunk_size), (3, 128));
    assert_eq!((dat.chunk_count, dat.chunk_size), (3, 0));
    assert_eq!(
        (gguf.datasets.as_slice(), &dat.datasets),
        (&["t.txt".to_owned()][..], &gguf.datasets)
    );
    assert!(gguf.entries.keys().eq(dat.entries.keys()) && gguf.entries.len() == 8);
    for (name, entry) in &gguf.entries {
        assert_eq!(entry.counts(), [384], "three chunks of 128 tokens");
        assert_eq!(dat.entries[name].counts(), [3]);
        let down = name == "blk.0.ffn_down.weight";
        assert_eq!(entry.sums().len(), if down { 48 } else { 32 });
        for (a, b) in entry.means().iter().zip(dat.importance(name).unwrap()) {
            assert!((a - b).abs() <= a * 1.2e-7, "{name}: {a} {b}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    gguf.write_gguf(&path("a.gguf")).unwrap();
    gguf.write_dat(&path("a.dat")).unwrap();
    dat.write_dat(&path("b.dat")).unwrap();
    let same = |ours: &str, theirs: &str| {
        assert!(fs::read(path(ours)).unwrap() == fs::read(testdata(theirs)).unwrap(), "{ours}");
    };
    same("a.gguf", "imatrix.gguf");
    same("a.dat", "imatrix.dat");
    same("b.dat", "imatrix.dat");
}

/// candle-core decodes a file of ours to our values: `tools/peers/candle` on the file that this test leaves behind made the golden.
#[test]
fn candle_decodes_our_file_alike() {
    use fewbit_checkpoint::gguf::GgmlType as T;
    let kinds = [
        T::F32,
        T::F16,
        T::BF16,
        T::Q4_0,
        T::Q4_1,
        T::Q5_0,
        T::Q5_1,
        T::Q8_0,
        T::Q2K,
        T::Q3K,
        T::Q4K,
        T::Q5K,
        T::Q6K,
    ];
    let from = Gguf::open(&testdata("kinds.gguf")).unwrap();
    let tensors: Vec<_> = from.tensors().filter(|t| kinds.contains(&t.kind)).collect();
    assert_eq!(tensors.len(), kinds.len());
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("candle.gguf");
    let _ = fs::remove_file(&out);
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    let specs = tensors.iter().map(|t| GgufSpec::new(&*t.name, t.kind, t.dims.clone())).collect();
    let mut writer = GgufWriter::create(&out, &metadata, specs, None).unwrap();
    for tensor in &tensors {
        writer.write(&tensor.name, &from.read(&tensor.name).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let golden = read_json("candle.json");
    let golden = golden["candle"].as_object().unwrap();
    assert_eq!(golden.len(), tensors.len());
    let ours = Gguf::open(&out).unwrap();
    for tensor in tensors {
        let values = ours.read_f32(&tensor.name).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| (v + 0.0).to_le_bytes()).collect();
        assert_eq!(golden[&tensor.name], format!("{:08x}", crc32(&bytes)), "{}", tensor.name);
    }
}
