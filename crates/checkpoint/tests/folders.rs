//! Sharded folders, and writing: what is written, what is refused, and that nothing half-written is left.

mod common;

use std::{fs, path::Path};

use common::{f32_spec, floats};
use fewbit_checkpoint::{
    Checkpoint, CheckpointError, Dtype, FolderWriter, TensorSpec, free_bytes, total_bytes,
    write_atomically,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

fn sharded(map: &Value, shards: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempdir().unwrap();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    for (name, bytes) in shards {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn open_error(folder: &TempDir) -> CheckpointError {
    Checkpoint::open(folder.path()).unwrap_err()
}

#[test]
fn shards_are_read_through_the_index() {
    let shards = [
        ("s1.safetensors", floats(&[("a", 2)])),
        ("s2.safetensors", floats(&[("b", 3), ("c", 1)])),
    ];
    let map = json!({"a": "s1.safetensors", "b": "s2.safetensors", "c": "s2.safetensors"});
    let folder = sharded(&map, &shards);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.read_f32("b").unwrap(), [1.0; 3]);
    assert_eq!(checkpoint.file_of("c").unwrap(), folder.path().join("s2.safetensors"));
    assert_eq!(checkpoint.file_bytes() as usize, shards[0].1.len() + shards[1].1.len());
    // A shard alone is a file like any other.
    let one = Checkpoint::open(&folder.path().join("s2.safetensors")).unwrap();
    assert_eq!((one.tensors().len(), one.folder()), (2, folder.path()));
}

#[test]
fn index_and_shards_that_contradict() {
    let a = || floats(&[("a", 2)]);
    let folder = sharded(
        &json!({"a": "s1.safetensors", "b": "s2.safetensors", "c": "s2.safetensors"}),
        &[("s1.safetensors", a())],
    );
    let error = open_error(&folder);
    assert!(
        matches!(&error, CheckpointError::MissingShard { tensor, others: 1, .. } if tensor == "b"),
        "{error}"
    );
    assert!(error.to_string().contains("s2.safetensors"), "{error}");

    let folder =
        sharded(&json!({"a": "s1.safetensors", "b": "s1.safetensors"}), &[("s1.safetensors", a())]);
    let error = open_error(&folder);
    assert!(
        matches!(&error, CheckpointError::AbsentFromShard { tensor, .. } if tensor == "b"),
        "{error}"
    );

    let both = [("s1.safetensors", a()), ("s2.safetensors", floats(&[("b", 1), ("a", 2)]))];
    let folder = sharded(&json!({"a": "s1.safetensors", "b": "s2.safetensors"}), &both);
    let error = open_error(&folder);
    assert!(
        matches!(&error, CheckpointError::TensorInTwoShards { tensor, .. } if tensor == "a"),
        "{error}"
    );

    for outside in
        ["../s1.safetensors", "/etc/passwd", "sub/s1.safetensors", "..", "", "a\\b", "C:x"]
    {
        let folder = sharded(&json!({"a": outside}), &[("s1.safetensors", a())]);
        let error = open_error(&folder);
        assert!(
            matches!(&error, CheckpointError::ShardPath { shard, .. } if shard == outside),
            "{error}"
        );
    }
    let folder = sharded(&json!({"a": 3}), &[]);
    assert!(matches!(open_error(&folder), CheckpointError::Json { .. }));

    let folder =
        sharded(&json!({"a": "s1.safetensors"}), &[("s1.safetensors", a()[..20].to_vec())]);
    let error = open_error(&folder);
    assert!(
        matches!(&error, CheckpointError::Header { file, .. } if file.ends_with("s1.safetensors")),
        "{error}"
    );
}

#[test]
fn folders_without_a_model() {
    let folder = tempdir().unwrap();
    assert!(matches!(open_error(&folder), CheckpointError::NoModel { .. }));
    let error = Checkpoint::open(&folder.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    // One file of another name will do, two will not.
    fs::write(folder.path().join("gptq_model-4bit-128g.safetensors"), floats(&[("a", 1)])).unwrap();
    assert!(Checkpoint::open(folder.path()).is_ok());
    fs::write(folder.path().join("other.safetensors"), floats(&[("b", 1)])).unwrap();
    assert!(matches!(open_error(&folder), CheckpointError::NoModel { .. }));
}

#[test]
fn ambiguous_weights() {
    let folder = common::folder_with(&floats(&[("m.qweight", 4)]));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.weight("m").unwrap_err();
    assert!(error.to_string().contains("does not say how it is quantized"), "{error}");
    assert!(matches!(checkpoint.weight("n"), Err(CheckpointError::MissingTensor { .. })));
    let folder = common::folder_with(&floats(&[("m.qweight", 4), ("m.weight", 4)]));
    fs::write(folder.path().join("quantize_config.json"), r#"{"bits": 4, "group_size": 128}"#)
        .unwrap();
    let error = Checkpoint::open(folder.path()).unwrap().weight("m").unwrap_err();
    assert!(matches!(error, CheckpointError::Ambiguous { .. }), "{error}");
}

fn specs() -> Vec<TensorSpec> {
    vec![
        f32_spec("big", &[100]),
        TensorSpec::new("bytes", Dtype::U8, [3]),
        f32_spec("x", &[10]),
        TensorSpec::new("half", Dtype::F16, [7]),
        f32_spec("none", &[0, 4]),
        f32_spec("y", &[20]),
    ]
}

fn fill(spec: &TensorSpec) -> Vec<u8> {
    (0..spec.bytes()).map(|i| (i * 7 + spec.name.len() as u64) as u8).collect()
}

fn write(out: &Path, shard_bytes: u64, backwards: bool) {
    let mut writer = FolderWriter::create(out, specs(), shard_bytes).unwrap();
    let mut order = specs();
    if backwards {
        order.reverse();
    }
    for spec in order {
        writer.write(&spec.name, &fill(&spec)).unwrap();
    }
    writer.write_json("config.json", &json!({"b": 1, "a": [2]})).unwrap();
    assert_eq!(writer.finish().unwrap(), out);
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn one_file_in_any_order_of_writing() {
    let folder = tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    write(&a, FolderWriter::SHARD_BYTES, false);
    write(&b, FolderWriter::SHARD_BYTES, true);
    assert_eq!(files(&a), files(&b), "the bytes do not depend on the order");
    assert_eq!(names(&a), ["config.json", "model.safetensors"]);
    assert_eq!(names(folder.path()), ["a", "b"], "no temporary folder is left");
    assert_eq!(
        fs::read_to_string(a.join("config.json")).unwrap(),
        "{\n  \"b\": 1,\n  \"a\": [\n    2\n  ]\n}\n"
    );

    let bytes = fs::read(a.join("model.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let (length, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!((length + 8) % 8, 0);
    assert_eq!(bytes.len(), 8 + length + total_bytes(&specs()) as usize);
    let checkpoint = Checkpoint::open(&a).unwrap();
    for spec in specs() {
        let view = reference.tensor(&spec.name).unwrap();
        assert_eq!((view.dtype(), view.shape()), (spec.dtype, &spec.shape[..]));
        assert_eq!(view.data(), fill(&spec));
        assert_eq!(*checkpoint.read(&spec.name).unwrap(), fill(&spec));
        let address = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        assert_eq!(address % (spec.dtype.bitsize() / 8), 0, "{} is aligned", spec.name);
    }
    // As the reference writes it, but for the names of the tensors being in the same order by type.
    let order: Vec<String> = metadata.offset_keys();
    assert_eq!(order.last().unwrap(), "bytes");
}

#[test]
fn shards_follow_the_order_of_the_specs() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    write(&out, 100, false);
    // big (400) exceeds the limit alone; bytes + x + half = 57, and y (80) would make it 137.
    assert_eq!(
        names(&out),
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json",
        ]
    );
    let index: Value =
        serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap())
            .unwrap();
    assert_eq!(index["metadata"]["total_size"], 537);
    assert_eq!(index["weight_map"]["half"], "model-00002-of-00003.safetensors");
    assert_eq!(index["weight_map"]["y"], "model-00003-of-00003.safetensors");
    let checkpoint = Checkpoint::open(&out).unwrap();
    for spec in specs() {
        assert_eq!(*checkpoint.read(&spec.name).unwrap(), fill(&spec));
    }
}

#[test]
fn what_the_writer_refuses() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let create = |specs| FolderWriter::create(&out, specs, 1000);
    let twice = create(vec![f32_spec("a", &[1]), f32_spec("a", &[2])]).unwrap_err();
    assert!(matches!(twice, CheckpointError::Unexpected { .. }), "{twice}");
    for name in ["", "a\0", "__metadata__"] {
        let error = create(vec![f32_spec(name, &[1])]).unwrap_err();
        assert!(matches!(error, CheckpointError::TensorName { .. }), "{error}");
    }

    let mut writer = create(vec![f32_spec("a", &[1]), f32_spec("b", &[1])]).unwrap();
    let error = create(Vec::new()).unwrap_err();
    assert!(matches!(error, CheckpointError::OutputBusy { .. }), "{error}");
    let error = writer.write("c", &[0; 4]).unwrap_err();
    assert!(error.to_string().contains("not announced"), "{error}");
    let error = writer.write("a", &[0; 3]).unwrap_err();
    assert!(matches!(error, CheckpointError::TensorLength { got: 3, expected: 4, .. }), "{error}");
    writer.write("a", &[0; 4]).unwrap();
    let error = writer.write("a", &[0; 4]).unwrap_err();
    assert!(error.to_string().contains("second time"), "{error}");
    for name in ["../x", "", "a/b", "model.safetensors", ".lock"] {
        let error = writer.write_json(name, &json!({})).unwrap_err();
        assert!(matches!(error, CheckpointError::FileName { .. }), "{error}");
    }
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Unwritten { tensor, missing: 1 } if tensor == "b"),
        "{error}"
    );
    assert!(names(folder.path()).is_empty(), "nothing is left");

    for existing in ["file", "folder"] {
        if existing == "file" {
            fs::write(&out, b"x").unwrap()
        } else {
            fs::create_dir(&out).unwrap()
        }
        let error = create(Vec::new()).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::OutputExists { path } if *path == out),
            "{error}"
        );
        if existing == "file" {
            fs::remove_file(&out).unwrap()
        } else {
            fs::remove_dir(&out).unwrap()
        }
    }
    // The output comes into being while we write.
    let writer = create(Vec::new()).unwrap();
    fs::create_dir(&out).unwrap();
    assert!(matches!(writer.finish(), Err(CheckpointError::OutputExists { .. })));
    assert_eq!(names(folder.path()), ["out"]);
    let error = FolderWriter::create(&folder.path().join("no/where"), Vec::new(), 1).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
}

/// A folder can be read while it still has its temporary name, and vanishes if that is all.
#[test]
fn complete_before_it_is_finished() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let mut writer = FolderWriter::create(&out, vec![f32_spec("a", &[1])], 1).unwrap();
    assert!(matches!(writer.complete(), Err(CheckpointError::Unwritten { .. })));
    writer.write("a", &1.5f32.to_le_bytes()).unwrap();
    let partial = writer.complete().unwrap();
    assert_eq!(Checkpoint::open(partial).unwrap().read_f32("a").unwrap(), [1.5]);
    assert!(!out.exists());
    drop(writer);
    assert!(names(folder.path()).is_empty());
}

/// Pieces come one after another, and rows can be read one by one.
#[test]
fn pieces() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let mut writer = FolderWriter::create(&out, vec![f32_spec("a", &[3, 2])], 1).unwrap();
    let values: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let unexpected = |result: Result<(), CheckpointError>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    unexpected(writer.write_part("b", 0, &values), "was not announced");
    unexpected(writer.write_part("a", 8, &values[8..]), "with a gap");
    writer.write_part("a", 0, &values[..8]).unwrap();
    unexpected(writer.write_part("a", 0, &values[..8]), "a second time");
    unexpected(writer.write("a", &values), "a second time");
    let error = writer.write_part("a", 8, &values).unwrap_err();
    assert!(matches!(error, CheckpointError::TensorLength { got: 32, .. }), "{error}");
    let error = writer.complete().unwrap_err();
    assert!(matches!(error, CheckpointError::TensorLength { got: 8, .. }), "{error}");
    writer.write_part("a", 8, &values[8..]).unwrap();
    unexpected(writer.write_part("a", 24, &[]), "a second time");
    writer.finish().unwrap();
    let model = Checkpoint::open(&out).unwrap();
    let mut rows = Vec::new();
    for range in [0..3, 1..2, 2..3, 3..3] {
        model.read_rows_into("a", range.clone(), &mut rows).unwrap();
        assert_eq!(rows, values[range.start * 8..range.end * 8]);
    }
    assert!(model.read_rows_into("a", 2..4, &mut rows).is_err());
}

/// What a killed process leaves is no obstacle and does not show.
#[test]
fn leftovers_are_replaced() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let partial = folder.path().join(".out.partial");
    fs::create_dir_all(partial.join("sub")).unwrap();
    fs::write(partial.join("model.safetensors"), b"half").unwrap();
    fs::write(partial.join(".lock"), b"").unwrap();
    write(&out, FolderWriter::SHARD_BYTES, false);
    assert_eq!(names(folder.path()), ["out"]);
    assert_eq!(names(&out), ["config.json", "model.safetensors"]);
}

#[test]
fn companions_come_along() {
    let folder = tempdir().unwrap();
    let from = folder.path().join("from");
    fs::create_dir(&from).unwrap();
    for name in ["tokenizer.json", "generation_config.json", "config.json", "notes.txt", "LICENSE"]
    {
        fs::write(from.join(name), name).unwrap();
    }
    fs::write(from.join("config.json"), "{}").unwrap();
    fs::write(from.join("model.safetensors"), floats(&[("a", 1)])).unwrap();
    let out = folder.path().join("out");
    let mut writer = FolderWriter::create(&out, Vec::new(), 1).unwrap();
    let copied = writer.copy_companions(&from).unwrap();
    assert_eq!(copied, ["generation_config.json", "tokenizer.json", "LICENSE"]);
    writer.finish().unwrap();
    assert_eq!(fs::read_to_string(out.join("tokenizer.json")).unwrap(), "tokenizer.json");
    assert_eq!(
        names(&out),
        ["LICENSE", "generation_config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(Checkpoint::open(&from).unwrap().companions().len(), 3);
}

/// The space is asked for before the first byte is written.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_too_small() {
    let folder = tempdir().unwrap();
    let free = free_bytes(&folder.path().join("not/yet/there")).unwrap();
    assert!(free > 0);
    let too_many = (free as usize / 4).saturating_mul(4);
    let specs = vec![f32_spec("a", &[too_many])];
    // Four times what is free; a file system without reservation may accept it, and then says so when writing.
    match FolderWriter::create(&folder.path().join("out"), specs, u64::MAX) {
        Err(CheckpointError::DiskFull { bytes, .. }) => assert!(bytes > free),
        Err(CheckpointError::Io { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge, "{source}");
        }
        Err(other) => panic!("{other}"),
        Ok(writer) => drop(writer),
    }
    assert!(names(folder.path()).is_empty(), "nothing is left");
}

#[test]
fn files_are_replaced_as_a_whole() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state.json");
    write_atomically(&path, b"one").unwrap();
    write_atomically(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(folder.path()), ["state.json"]);
    let error = write_atomically(&folder.path().join("no/where"), b"").unwrap_err();
    assert!(matches!(error, CheckpointError::Io { action: "write", .. }), "{error}");
    if Path::new("/dev/full").exists() {
        // A full disk at the moment of writing has its own name.
        let source = fs::write("/dev/full", b"x").unwrap_err();
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    }
}
