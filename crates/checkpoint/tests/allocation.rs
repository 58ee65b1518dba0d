//! What a header can make us allocate, counted: at most a small multiple of the file, whatever it claims.

use std::{fs, path::Path};

use fewbit_checkpoint::{
    Access, Checkpoint,
    gguf::{Gguf, ImportanceMatrix},
    legacy::{LegacyFile, llama2c_vocabulary},
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The most bytes that are held at once while a file is opened. The only test of this program, so that nothing else allocates.
fn peak(open: impl FnOnce()) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    open();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

/// What opening may take beside a multiple of the file: buffers, paths, the regular expressions of names, messages.
const FIXED: usize = 1 << 20;
/// Bytes for each byte of the file.
const MULTIPLE: usize = 64;

/// Opens every variant of a file in which some bytes of the head claim something large.
fn check(name: &str, bytes: &[u8], open: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let mut worst = (0, 0);
    for at in 0..bytes.len().min(500) {
        for claim in [&[0xff, 0xff, 0xff, 0x7f][..], &[0x40; 8]] {
            let mut claimed = bytes.to_vec();
            for (byte, claim) in claimed[at..].iter_mut().zip(claim) {
                *byte = *claim;
            }
            fs::write(&path, &claimed).unwrap();
            worst = worst.max((peak(|| open(&path)), at));
        }
    }
    assert!(worst.0 > 0, "{name}: nothing was counted");
    let limit = FIXED + MULTIPLE * bytes.len();
    assert!(worst.0 <= limit, "{name}: {} bytes for a claim at byte {}", worst.0, worst.1);
}

fn testdata(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)).unwrap()
}

#[test]
fn no_header_makes_us_allocate_more_than_a_multiple_of_the_file() {
    let checkpoint = |path: &Path| {
        let _ = Checkpoint::open_with(path, Access::Positioned);
    };
    check("x.gguf", &testdata("gguf/kinds.gguf"), |path| {
        let _ = Gguf::open_with(path, Access::Positioned);
    });
    check("x.gguf", &testdata("gguf/imatrix.gguf"), |path| {
        let _ = ImportanceMatrix::read(path);
    });
    check("x.dat", &testdata("gguf/imatrix.dat"), |path| {
        let _ = ImportanceMatrix::read(path);
    });
    check("x.onnx", &testdata("onnx/int8-affine-g32.onnx"), checkpoint);
    check("x.bin", &testdata("legacy/ggjt3.bin"), |path| {
        let _ = LegacyFile::open_with(path, Access::Positioned);
    });
    let mut llama2c = b"24ka\x02\0\0\0".to_vec();
    llama2c.extend([8i32, 6, 1, 2, 2, 4, 8].iter().flat_map(|v| v.to_le_bytes()));
    llama2c.extend([1, 2, 0, 0, 0]);
    llama2c.resize(4096, 0);
    check("x.bin", &llama2c, |path| {
        let _ = LegacyFile::open_with(path, Access::Positioned);
    });
    let mut tokens = 9u32.to_le_bytes().to_vec();
    for text in [&b"<unk>"[..], b"one", b"two"] {
        tokens.extend(1.0f32.to_le_bytes());
        tokens.extend((text.len() as u32).to_le_bytes());
        tokens.extend(text);
    }
    check("tokenizer.bin", &tokens, |path| {
        let _ = llama2c_vocabulary(path);
    });
    let json = br#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}       "#;
    let mut safetensors = (json.len() as u64).to_le_bytes().to_vec();
    safetensors.extend(json);
    safetensors.extend([0; 16]);
    check("x.safetensors", &safetensors, checkpoint);
}
