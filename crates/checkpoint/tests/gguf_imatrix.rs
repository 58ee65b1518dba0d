//! Importance matrices in both forms of file.

use std::{collections::BTreeMap, fs, path::Path};

use fewbit_checkpoint::{
    CheckpointError, Item, Malformed, Problem,
    gguf::{GgmlType, Gguf, GgufSpec, GgufWriter, Importance, ImportanceMatrix, Metadata},
};
use fewbit_testkit::Random;
use proptest::prelude::*;

fn entry(sums: Vec<f32>, counts: Vec<u64>) -> Importance {
    Importance::new(sums, counts).unwrap()
}

fn matrix() -> ImportanceMatrix {
    let dense = entry(vec![2.0, 0.0, 8.5, 1e-6], vec![1024]);
    // Three experts of two inputs; one saw nothing.
    let experts = entry(vec![3.0, 6.0, 0.0, 0.0, 10.0, 20.0], vec![3, 0, 700]);
    ImportanceMatrix {
        entries: BTreeMap::from([
            ("blk.0.attn_q.weight".to_owned(), dense),
            ("blk.0.ffn_gate_exps.weight".to_owned(), experts),
        ]),
        datasets: vec!["calibration.txt".to_owned(), "żółw.txt".to_owned()],
        chunk_count: 2,
        chunk_size: 512,
    }
}

#[test]
fn means_are_per_matrix() {
    let matrix = matrix();
    let means = matrix.importance("blk.0.attn_q.weight").unwrap();
    assert_eq!(means, [2.0 / 1024.0, 0.0, 8.5 / 1024.0, 1e-6 / 1024.0]);
    let means = matrix.importance("blk.0.ffn_gate_exps.weight").unwrap();
    assert_eq!(means, [1.0, 2.0, 1.0, 1.0, 10.0 / 700.0, 20.0 / 700.0]);
    assert_eq!(matrix.importance("token_embd.weight"), None);
}

#[test]
fn the_gguf_form_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.gguf");
    matrix().write_gguf(&path).unwrap();
    assert_eq!(ImportanceMatrix::read(&path).unwrap(), matrix());
    let file = Gguf::open(&path).unwrap();
    assert_eq!(file.metadata().text("general.type").unwrap(), "imatrix");
    let tensors: Vec<_> = file.tensors().map(|t| (t.name.as_str(), t.dims.as_slice())).collect();
    assert_eq!(
        tensors,
        [
            ("blk.0.attn_q.weight.in_sum2", &[4][..]),
            ("blk.0.attn_q.weight.counts", &[1]),
            ("blk.0.ffn_gate_exps.weight.in_sum2", &[2, 3]),
            ("blk.0.ffn_gate_exps.weight.counts", &[1, 3]),
        ]
    );
    let error = matrix().write_gguf(&path).unwrap_err();
    assert!(matches!(error, CheckpointError::OutputExists { .. }), "{error}");
}

#[test]
fn the_older_form_holds_means_and_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.dat");
    matrix().write_dat(&path).unwrap();
    // Two chunks of 512 for the dense weight, two begun for the experts: the largest count, rounded up.
    let mut bytes = 2i32.to_le_bytes().to_vec();
    for (name, calls, values) in [
        (
            "blk.0.attn_q.weight",
            2i32,
            vec![2.0f32 / 1024.0 * 2.0, 0.0, 8.5 / 1024.0 * 2.0, 1e-6 / 1024.0 * 2.0],
        ),
        (
            "blk.0.ffn_gate_exps.weight",
            2,
            vec![2.0, 4.0, 2.0, 2.0, 10.0 / 700.0 * 2.0, 20.0 / 700.0 * 2.0],
        ),
    ] {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    bytes.extend(2i32.to_le_bytes());
    bytes.extend((("żółw.txt").len() as i32).to_le_bytes());
    bytes.extend("żółw.txt".as_bytes());
    assert_eq!(fs::read(&path).unwrap(), bytes);

    let back = ImportanceMatrix::read(&path).unwrap();
    assert_eq!((back.chunk_count, back.chunk_size), (2, 0));
    assert_eq!(back.datasets, ["żółw.txt"]);
    for name in matrix().entries.keys() {
        assert_eq!(back.importance(name), matrix().importance(name), "{name}");
    }
    // What was read from such a file is written again byte for byte.
    let again = folder.path().join("again.dat");
    back.write_dat(&again).unwrap();
    assert_eq!(fs::read(&again).unwrap(), bytes);
    let error = back.write_dat(&again).unwrap_err();
    assert!(matches!(error, CheckpointError::OutputExists { .. }), "{error}");

    // Files of the first months end after the entries.
    let entries = bytes.len() - 4 - 4 - "żółw.txt".len();
    fs::write(&path, &bytes[..entries]).unwrap();
    let short = ImportanceMatrix::read(&path).unwrap();
    assert_eq!((short.entries, short.chunk_count), (back.entries, 0));
}

#[test]
fn weights_that_saw_nothing_are_left_out_of_the_older_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.dat");
    let mut matrix = matrix();
    let none = entry(vec![0.0; 3], vec![0]);
    matrix.entries.insert("blk.1.attn_q.weight".to_owned(), none);
    matrix.write_dat(&path).unwrap();
    assert_eq!(ImportanceMatrix::read(&path).unwrap().entries.len(), 2);
}

/// The error of an older file with these bytes.
fn error(bytes: &[u8]) -> Malformed {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.dat");
    fs::write(&path, bytes).unwrap();
    match ImportanceMatrix::read(&path).unwrap_err() {
        CheckpointError::Malformed { source, format: "importance matrix", .. } => *source,
        other => panic!("{other}"),
    }
}

fn dat(entries: &[(&[u8], i32, &[f32])]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(*name);
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    bytes
}

#[test]
fn impossible_older_files() {
    let good = dat(&[(b"a", 1, &[1.0, 2.0]), (b"b", 0, &[3.0])]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("good.dat");
    fs::write(&path, &good).unwrap();
    let matrix = ImportanceMatrix::read(&path).unwrap();
    assert_eq!(matrix.importance("b").unwrap(), [3.0]);

    let check = |bytes: &[u8], at, item, problem| {
        assert_eq!(error(bytes), Malformed { at, item, problem });
    };
    let set = |at: usize, value: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let value = |what, value, least: i32| Problem::Value {
        what,
        value,
        expected: format!("at least {least}"),
    };
    let a = || Item::Tensor("a".to_owned());
    check(&set(0, 0), 0, Item::Header, value("entries", 0, 1));
    check(&set(0, -5), 0, Item::Header, value("entries", -5, 1));
    let left = good.len() as u64 - 4;
    let problem = Problem::Count { what: "entries", count: i32::MAX as u64, limit: left / 17 };
    check(&set(0, i32::MAX), 0, Item::Header, problem);
    check(&set(4, 0), 4, Item::TensorNumber(0), value("bytes of name", 0, 1));
    let problem = Problem::Count { what: "bytes of name", count: 1 << 30, limit: left - 4 };
    check(&set(4, 1 << 30), 4, Item::TensorNumber(0), problem);
    check(&set(9, -1), 9, a(), value("calls", -1, 0));
    check(&set(13, 0), 13, a(), value("values", 0, 1));
    let problem = Problem::Count { what: "values", count: 1 << 30, limit: (left - 13) / 4 };
    check(&set(13, 1 << 30), 13, a(), problem);
    for (bits, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let found = error(&set(21, bits.to_bits() as i32));
        assert_eq!((found.at, found.item), (21, a()));
        assert!(found.problem.to_string().contains(shown), "{}", found.problem);
    }
    check(&dat(&[(b"\xff", 1, &[1.0])]), 8, Item::TensorNumber(0), Problem::Utf8);
    let twice = dat(&[(b"a", 1, &[1.0]), (b"a", 1, &[1.0])]);
    check(&twice, 21, a(), Problem::Duplicate);
    let tail = |tail: &[u8]| [&good[..], tail].concat();
    let at = good.len() as u64;
    check(&tail(&[1, 0, 0]), at, Item::Header, Problem::Truncated { needed: 4, left: 3 });
    check(&tail(&[255; 4]), at, Item::Header, value("chunks", -1, 0));
    let problem = Problem::Count { what: "bytes of dataset", count: 9, limit: 1 };
    check(&tail(&[1, 0, 0, 0, 9, 0, 0, 0, 65]), at + 4, Item::Header, problem);
    let problem = Problem::Trailing { bytes: 2 };
    check(&tail(&[1, 0, 0, 0, 1, 0, 0, 0, 65, 66, 67]), at + 9, Item::Header, problem);
    for length in 0..good.len() {
        error(&good[..length]);
    }
}

/// What is said of a GGUF file of these tensors.
fn gguf_error(metadata: &Metadata, tensors: &[(&str, GgmlType, &[u64], Vec<u8>)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let specs = tensors.iter().map(|(name, kind, dims, _)| GgufSpec::new(*name, *kind, *dims));
    let mut writer = GgufWriter::create(&path, metadata, specs.collect(), None).unwrap();
    for (name, _, _, bytes) in tensors {
        writer.write(name, bytes).unwrap();
    }
    writer.finish().unwrap();
    ImportanceMatrix::read(&path).unwrap_err().to_string()
}

#[test]
fn impossible_gguf_files() {
    let mut metadata = Metadata::new();
    metadata.insert("imatrix.datasets", vec!["x".to_owned()]);
    metadata.insert("imatrix.chunk_count", 1u32);
    let no_size = metadata.clone();
    metadata.insert("imatrix.chunk_size", 512u32);
    let floats =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let f32 = |name: &'static str, dims: &'static [u64], values: &[f32]| {
        (name, GgmlType::F32, dims, floats(values))
    };
    let error = gguf_error(&no_size, &[]);
    assert!(error.contains("imatrix.chunk_size is missing"), "{error}");
    let error = gguf_error(&metadata, &[]);
    assert!(error.contains("holds no importance"), "{error}");
    let error = gguf_error(&metadata, &[f32("a.in_sum2", &[2, 1], &[1.0, 2.0])]);
    assert!(error.contains("tensor a.counts is missing"), "{error}");
    let error = gguf_error(&metadata, &[f32("a.counts", &[1, 1], &[1.0])]);
    assert!(error.contains("tensor a.in_sum2 is missing"), "{error}");
    let wrong = ("a.in_sum2", GgmlType::F16, &[2u64, 1][..], vec![0; 4]);
    let error = gguf_error(&metadata, &[wrong, f32("a.counts", &[1, 1], &[1.0])]);
    assert!(error.contains("tensor a.in_sum2 is F16, but F32 is needed"), "{error}");
    for (sums, counts, text) in [
        (vec![1.0, -2.0], vec![1.0], "a sum of squares is -2"),
        (vec![f32::NAN, 2.0], vec![1.0], "a sum of squares is NaN"),
        (vec![1.0, 2.0], vec![-1.0], "a count is -1"),
        (vec![1.0, 2.0], vec![0.5], "a count is 0.5"),
        (vec![1.0, 2.0], vec![f32::INFINITY], "a count is inf"),
    ] {
        let tensors = [f32("a.in_sum2", &[2, 1], &sums), f32("a.counts", &[1, 1], &counts)];
        let error = gguf_error(&metadata, &tensors);
        assert!(error.contains(text), "{error}");
    }
    let tensors = [f32("a.in_sum2", &[3, 1], &[1.0; 3]), f32("a.counts", &[1, 2], &[1.0; 2])];
    let error = gguf_error(&metadata, &tensors);
    assert!(error.contains("the number of counts is 2"), "{error}");
    let tensors = [f32("a.in_sum2", &[3, 0], &[]), f32("a.counts", &[1, 0], &[])];
    let error = gguf_error(&metadata, &tensors);
    assert!(error.contains("the number of counts is 0"), "{error}");
}

#[test]
fn sums_and_counts_that_cannot_be() {
    let problem =
        |sums: &[f32], counts: &[u64]| Importance::new(sums.to_vec(), counts.to_vec()).unwrap_err();
    assert!(matches!(problem(&[1.0, -1.0], &[1]), Problem::Float { value: -1.0, .. }));
    assert!(matches!(problem(&[f32::NAN], &[1]), Problem::Float { .. }));
    for (sums, counts) in [(&[][..], &[1][..]), (&[1.0], &[]), (&[1.0; 3], &[1, 2])] {
        assert!(matches!(problem(sums, counts), Problem::Value { .. }));
    }
    // The older form multiplies by the number of chunks: here beyond the largest float.
    let folder = tempfile::tempdir().unwrap();
    let mut matrix = ImportanceMatrix { chunk_size: 1, ..Default::default() };
    matrix.entries.insert("a".to_owned(), entry(vec![f32::MAX, 1.0], vec![1, 1000]));
    let error = matrix.write_dat(&folder.path().join("x")).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Unwritable { item: Item::Tensor(a), .. } if a == "a")
    );
}

#[test]
fn nothing_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut matrix = ImportanceMatrix::default();
    let refused = |result: Result<(), CheckpointError>| {
        assert!(matches!(result, Err(CheckpointError::NoImportance { .. })), "{result:?}");
    };
    refused(matrix.write_gguf(&path));
    refused(matrix.write_dat(&path));
    let none = entry(vec![0.0], vec![0]);
    matrix.entries.insert("a".to_owned(), none);
    refused(matrix.write_dat(&path));
    matrix.write_gguf(&path).unwrap();
}

fn read_bytes(write: impl Fn(&Path)) -> ImportanceMatrix {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write(&path);
    ImportanceMatrix::read(&path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_forms_agree(seed: u64, shapes in prop::collection::vec((1usize..9, 1usize..4, 0usize..3), 1..5), chunk in 1u32..9) {
        let mut random = Random::new(seed);
        let mut matrix = ImportanceMatrix { chunk_count: 3, chunk_size: chunk, ..Default::default() };
        for (i, (in_features, n_matrices, zeros)) in shapes.into_iter().enumerate() {
            // A matrix that saw nothing has no sums.
            let zeros = if i == 0 { 0 } else { zeros };
            let counts: Vec<u64> =
                (0..n_matrices).map(|m| if m + 1 < zeros { 0 } else { 1 + random.below(99) as u64 }).collect();
            let sums = (0..in_features * n_matrices)
                .map(|j| if counts[j / in_features] == 0 { 0.0 } else { (random.normal() as f32).powi(2) })
                .collect();
            matrix.entries.insert(format!("blk.{i}.weight"), entry(sums, counts));
        }
        let gguf = read_bytes(|path| matrix.write_gguf(path).unwrap());
        prop_assert_eq!(&gguf, &matrix);
        let dat = read_bytes(|path| matrix.write_dat(path).unwrap());
        for (name, entry) in &matrix.entries {
            if entry.counts().iter().all(|&count| count == 0) {
                prop_assert!(!dat.entries.contains_key(name));
                continue;
            }
            // Twice rounded: by the product with the number of chunks, and by the division.
            for (a, b) in dat.importance(name).unwrap().iter().zip(entry.means()) {
                prop_assert!((a - b).abs() <= b * 2.5e-7, "{} {}", a, b);
            }
        }
    }
}
