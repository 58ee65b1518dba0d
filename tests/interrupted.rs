//! The main job as a program, killed for real at random moments.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fewbit_testkit::Random;

/// The program, which `cargo test` builds beside the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(format!("quantize{}", std::env::consts::EXE_SUFFIX))
}

fn command(method: &str, out: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(["--no-eval", "--windows", "24", "--method", method, "--out"]).arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Names and bytes of the files, the report aside: it holds times.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("report."))
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn killed_at_random_moments_it_gives_the_same_bytes() {
    killed_at_random_moments("gptq", 3);
}

#[test]
fn killed_while_it_scales_it_gives_the_same_bytes() {
    killed_at_random_moments("awq", 2);
}

fn killed_at_random_moments(method: &str, rounds: usize) {
    let folder = tempfile::tempdir().unwrap();
    let straight = folder.path().join("straight");
    let started = Instant::now();
    assert!(command(method, &straight).status().unwrap().success());
    let duration = started.elapsed();

    let mut random = Random::new(duration.subsec_nanos().into());
    for round in 0..rounds {
        let out = folder.path().join(format!("killed-{round}"));
        let mut kills = 0;
        loop {
            let mut child = command(method, &out).spawn().unwrap();
            // After three kills it may finish, so that the test ends.
            let patience = if kills < 3 {
                duration.mul_f64(random.uniform())
            } else {
                Duration::from_secs(600)
            };
            let deadline = Instant::now() + patience;
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if Instant::now() > deadline {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                thread::sleep(Duration::from_millis(2));
            };
            match status {
                Some(status) => {
                    assert!(status.success(), "round {round}: {status}");
                    break;
                }
                // Killed between the renaming and the report.
                None if out.exists() => break,
                None => kills += 1,
            }
        }
        assert_eq!(contents(&out), contents(&straight), "round {round} after {kills} kills");
    }
}

#[test]
fn bad_input_ends_with_exit_code_1_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let existing = folder.path().join("existing");
    fs::create_dir(&existing).unwrap();
    fs::write(existing.join("keep"), b"mine").unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(program()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let path = existing.to_str().unwrap();
    assert!(run(&["--out", path]).contains("exists already"));
    assert_eq!(fs::read(existing.join("keep")).unwrap(), b"mine");
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    assert!(
        run(&["--model", path, "--out", out, "--method", "rtn"])
            .contains("name a Hugging Face model folder")
    );
    assert!(run(&["--out", out, "--bits", "7"]).contains("7 bits"));
    assert!(run(&["--out", out, "--group-size", "100"]).contains("100"));
    assert!(run(&["--out", out, "--window", "100000000"]).contains("calibration text"));
    assert!(run(&["--out", out, "--resume"]).contains("no work folder"));
    assert!(!Path::new(out).exists());
}
