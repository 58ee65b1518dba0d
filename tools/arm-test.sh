#!/bin/sh
# Tests of a package on an emulated Cortex-A76, the core of a Raspberry Pi 5, from an x86-64 machine.
#
#   tools/arm-test.sh -p fewbit-kernels --release        (arguments of `cargo test`)
#
# Needs a cross compiler, the emulator and the standard library for the target; on Debian and with rustup:
#   apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
#   rustup target add aarch64-unknown-linux-gnu
#
# ARM_CPU      another CPU that qemu knows: "cortex-a72" (Raspberry Pi 4) has no dot products of bytes, "max" has everything
# ARM_SYSROOT  a folder with the standard library for the target, where it is not the toolchain's own
set -eu
target=aarch64-unknown-linux-gnu
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v "$tool" >/dev/null || { echo "arm-test: $tool is missing; see the head of this file" >&2; exit 2; }
done
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu ${ARM_CPU:-cortex-a76} -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="${RUSTFLAGS:-}${ARM_SYSROOT:+ --sysroot=$ARM_SYSROOT}"
unset RUSTFLAGS
exec cargo test --target "$target" "$@"
