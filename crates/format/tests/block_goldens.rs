//! Encoding and decoding against checksums of GGML's C functions and the gguf package: `tools/goldens/blocks.py` says how they are made.

use std::{collections::BTreeMap, fs, path::Path};

use fewbit_format::{BlockMatrix, BlockType, MatrixShape, bf16};
use fewbit_testkit::{Random, crc32, shared_or_skip};

const GOLDENS: &str = include_str!("goldens/blocks.txt");
const ROWS: usize = 8;
const IN_FEATURES: usize = 512;

/// Checksums of the blocks without importances, with even ones, with ones of very different size, and of the values of the first.
type Checksums = [u32; 4];

fn goldens() -> BTreeMap<(&'static str, BlockType), Checksums> {
    let line = |line: &'static str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [case, name, crcs @ ..] = &words[..] else { panic!("{line}") };
        let crcs = crcs.iter().map(|c| u32::from_str_radix(c, 16).unwrap()).collect::<Vec<_>>();
        ((*case, BlockType::from_name(name).unwrap()), crcs.try_into().unwrap())
    };
    GOLDENS.lines().filter(|l| !l.starts_with('#')).map(line).collect()
}

/// The rows of every case, by arithmetic that is exact or rounds the same everywhere.
fn cases() -> BTreeMap<&'static str, Vec<f32>> {
    let mut random = Random::new(1);
    let mut cases: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for row in 0..ROWS {
        for column in 0..IN_FEATURES {
            let [a, b, c, d] = [(); 4].map(|()| random.uniform());
            let bell = ((a + b) + (c + d) - 2.0) * 0.05;
            let outlier = column == row * 37;
            let values = [
                ("bell", bell),
                ("heavy", (a - 0.5) / (b * c + 2f64.powi(-10)) * 0.02),
                ("positive", a),
                ("negative", -a - 0.25),
                ("integers", (a * 17.0).floor() - 8.0),
                ("halves", ((a * 33.0).floor() - 16.0) / 2.0),
                ("sparse", if a < 0.9 { 0.0 } else { b - 0.5 }),
                ("zeros", if a < 0.5 { 0.0 } else { -0.0 }),
                ("constant", 0.3),
                ("minus", -0.3),
                ("outlier", if outlier { 30.0 } else { 0.01 * (a - 0.5) }),
                ("lone", if outlier { a - 0.5 } else { 0.0 }),
                ("magnitudes", (a - 0.5) * 2f64.powi((b * 32.0) as i32 - 24)),
                ("small", bell * 2f64.powi(-24)),
                ("tiny", bell * 2f64.powi(-60)),
                ("least", bell * 2f64.powi(-100)),
            ];
            for (case, x) in values {
                cases.entry(case).or_default().push(x as f32);
            }
        }
    }
    cases
}

fn importances(seed: u64, n: usize) -> [Vec<f32>; 2] {
    let mut random = Random::new(seed);
    let [mut even, mut wide] = [Vec::new(), Vec::new()];
    for _ in 0..n {
        let [a, b, c] = [(); 3].map(|()| random.uniform());
        even.push((a + 2f64.powi(-20)) as f32);
        wide.push((a * b * 2f64.powi((c * 16.0) as i32 - 8) + 2f64.powi(-30)) as f32);
    }
    [even, wide]
}

/// What a golden holds, over all matrices.
fn checksums(block_type: BlockType, matrices: &[(MatrixShape, Vec<f32>, u64)]) -> Checksums {
    let mut bytes = [const { Vec::new() }; 4];
    for (shape, weight, seed) in matrices {
        let [even, wide] = importances(*seed, shape.in_features);
        for (i, importance) in [None, Some(&even[..]), Some(&wide)].into_iter().enumerate() {
            let matrix =
                BlockMatrix::round_to_nearest(weight, *shape, block_type, importance).unwrap();
            matrix.view().check().unwrap();
            bytes[i].extend_from_slice(matrix.data());
            if i == 0 {
                bytes[3].extend(matrix.dequantize().iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }
    bytes.map(|b| crc32(&b))
}

#[test]
fn rows_of_every_kind() {
    let (goldens, cases) = (goldens(), cases());
    let shape = MatrixShape::new(ROWS, IN_FEATURES);
    for (case, weight) in cases {
        let matrices = [(shape, weight, 2)];
        for block_type in BlockType::ALL {
            let expected = goldens[&(case, block_type)];
            assert_eq!(checksums(block_type, &matrices), expected, "{case} {block_type}");
        }
    }
}

#[test]
fn matrices_of_real_models() {
    let Some(shared) = shared_or_skip("matrices_of_real_models") else { return };
    let goldens = goldens();
    for model in ["TinyStories-656K", "llama-4m"] {
        let matrices = matrices_of(&shared.join("models").join(model));
        assert_eq!(matrices.len(), 7, "{model}");
        let types = BlockType::ALL.into_iter().filter(|t| goldens.contains_key(&(model, *t)));
        let mut n = 0;
        for block_type in types {
            let expected = goldens[&(model, block_type)];
            assert_eq!(checksums(block_type, &matrices), expected, "{model} {block_type}");
            n += 1;
        }
        assert!(n >= 10, "{model} has goldens of {n} types only");
    }
}

/// The matrices of the first block of a model, in the order of their names, with the seeds of their importances.
fn matrices_of(folder: &Path) -> Vec<(MatrixShape, Vec<f32>, u64)> {
    let data = fs::read(folder.join("model.safetensors")).unwrap();
    let (size, rest) = data.split_first_chunk::<8>().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*size) as usize);
    let header = std::str::from_utf8(header).unwrap();
    // "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}
    let numbers = |entry: &str, key: &str| -> Vec<usize> {
        let list = entry.split(key).nth(1).unwrap().split(['[', ']']).nth(1).unwrap();
        list.split(',').map(|n| n.trim().parse().unwrap()).collect()
    };
    let mut entries: Vec<_> = header
        .split('}')
        .filter(|e| e.contains("data_offsets"))
        .map(|e| (e.split('"').nth(1).unwrap(), e))
        .filter(|(name, e)| name.contains(".layers.0.") && numbers(e, "\"shape\"").len() == 2)
        .collect();
    entries.sort();
    let matrix = |(i, (_, entry)): (usize, (&str, &str))| {
        let (shape, at) = (numbers(entry, "\"shape\""), numbers(entry, "\"data_offsets\""));
        let raw = &tensors[at[0]..at[1]];
        let weight = if entry.contains("\"BF16\"") {
            raw.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        } else {
            raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        (MatrixShape::new(shape[0], shape[1]), weight, i as u64 + 1)
    };
    entries.into_iter().enumerate().map(matrix).collect()
}
