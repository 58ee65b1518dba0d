#!/bin/sh
# Tests of a package as WebAssembly with vectors of 128 bits, run by Node (20 or later).
#
#   tools/wasm-test.sh -p fewbit-kernels --no-default-features --features std --release        (arguments of `cargo test`)
#
# Needs the standard library for the target: rustup target add wasm32-wasip1
set -eu
command -v node >/dev/null || { echo "wasm-test: node is missing; see the head of this file" >&2; exit 2; }
export CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $(CDPATH= cd "$(dirname "$0")" && pwd)/wasm-run.mjs"
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+simd128"
unset RUSTFLAGS
exec cargo test --target wasm32-wasip1 "$@"
