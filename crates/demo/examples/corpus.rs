//! Prints the text of a split: `cargo run --release -p fewbit-demo --example corpus -- train 30000000`.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use fewbit_demo::{Split, text};

const USAGE: &str = "usage: corpus <train|calibration|validation|test> <bytes>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [split, bytes] = arguments.as_slice() else { return fail(USAGE) };
    let Some(split) = Split::ALL.into_iter().find(|s| s.name() == split) else {
        return fail(&format!("there is no split {split:?}\n{USAGE}"));
    };
    let Ok(bytes) = bytes.parse() else {
        return fail(&format!("{bytes:?} is not a number of bytes\n{USAGE}"));
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text(split, bytes).as_bytes()).and_then(|()| out.write_all(b"\n")) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => fail(&format!("cannot write the text: {e}")),
        _ => ExitCode::SUCCESS,
    }
}

#[expect(clippy::print_stderr, reason = "a program tells its user what went wrong")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
