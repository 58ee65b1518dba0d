"""Goldens of the GGML block types: checksums of what GGML's C functions and the gguf package make of given rows.

    python blocks.py LIBRARY OUT [--models MODELS] [--note NOTE]     writes OUT (crates/format/tests/goldens/blocks.txt)
    python blocks.py LIBRARY --time                                  the rates of LIBRARY, to hold against `cargo bench --bench blocks`

LIBRARY is a shared library with the functions of ggml-quants.c, such as llama.cpp's libggml-base.so. For goldens its compiler has to be told not to
contract products and sums (-ffp-contract=off); for rates it is built as usual. Each row is encoded without importance weights and under two sets of
them, by `quantize_*`, which is what llama-quantize calls; the decoded values have to be those of `dequantize_row_*` and of the gguf package,
bit for bit. Package versions: ../peers/requirements.txt.

A line of OUT: case, type, checksum (zip CRC-32) of the blocks without importances, under the first and the second, of the values of the first.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
import zlib
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np

ROWS, IN_FEATURES = 8, 512
# name: weights and bytes of a block, and whether the search depends on importances
TYPES = {
    "q4_0": (32, 18, True), "q4_1": (32, 20, True), "q5_0": (32, 22, True), "q5_1": (32, 24, True), "q8_0": (32, 34, False),
    "q2_K": (256, 84, True), "q3_K": (256, 110, True), "q4_K": (256, 144, True), "q5_K": (256, 176, True), "q6_K": (256, 210, True),
    "iq4_nl": (32, 18, True), "iq4_xs": (256, 136, True), "mxfp4": (32, 17, False), "nvfp4": (64, 36, False),
    "tq1_0": (256, 54, False), "tq2_0": (256, 66, False), "q1_0": (128, 18, False), "q2_0": (64, 18, False),
}  # fmt: skip


def uniforms(seed: int, n: int) -> np.ndarray:
    """n values in [0, 1) from SplitMix64, as fewbit_testkit::Random makes them."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def cases() -> dict[str, np.ndarray]:
    """Rows of every kind, by arithmetic that is exact or rounds the same everywhere: four uniforms a weight."""
    u = uniforms(1, 4 * ROWS * IN_FEATURES).reshape(ROWS, IN_FEATURES, 4)
    a, b, c, d = (u[..., i] for i in range(4))
    bell = ((a + b) + (c + d) - 2.0) * 0.05
    column, row = np.arange(IN_FEATURES), np.arange(ROWS)[:, None]
    outlier = column == row * 37
    result = {
        "bell": bell,
        "heavy": (a - 0.5) / (b * c + 2.0**-10) * 0.02,
        "positive": a,
        "negative": -a - 0.25,
        "integers": np.floor(a * 17.0) - 8.0,
        "halves": (np.floor(a * 33.0) - 16.0) / 2.0,
        "sparse": np.where(a < 0.9, 0.0, b - 0.5),
        "zeros": np.where(a < 0.5, 0.0, -0.0),
        "constant": np.full_like(a, 0.3),
        "minus": np.full_like(a, -0.3),
        "outlier": np.where(outlier, 30.0, 0.01 * (a - 0.5)),
        "lone": np.where(outlier, a - 0.5, 0.0),
        "magnitudes": (a - 0.5) * np.exp2(np.floor(b * 32.0) - 24.0),
        "small": bell * 2.0**-24,
        "tiny": bell * 2.0**-60,
        "least": bell * 2.0**-100,
    }
    return {name: x.astype(np.float32) for name, x in result.items()}


def importances(seed: int, n: int) -> list[np.ndarray]:
    """Even ones, and ones of very different size."""
    u = uniforms(seed, 3 * n).reshape(n, 3)
    even = u[:, 0] + 2.0**-20
    wide = u[:, 0] * u[:, 1] * np.exp2(np.floor(u[:, 2] * 16.0) - 8.0) + 2.0**-30
    return [even.astype(np.float32), wide.astype(np.float32)]


class Library:
    def __init__(self, path: Path):
        self.c = ctypes.CDLL(str(path.resolve()))

    def encode(self, name: str, x: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        weights, size, _ = TYPES[name]
        rows, n = x.shape
        out = np.zeros((rows, n // weights * size), np.uint8)
        function = getattr(self.c, f"quantize_{name}")
        function.restype = ctypes.c_size_t
        pointer = None if importance is None else importance.ctypes.data_as(ctypes.c_void_p)
        written = function(
            x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(rows), ctypes.c_int64(n), pointer
        )
        assert written == out.size, name
        return out

    def decode(self, name: str, blocks: np.ndarray, n: int) -> np.ndarray:
        out = np.full((blocks.shape[0], n), np.nan, np.float32)
        function = getattr(self.c, f"dequantize_row_{name}")
        function.restype = None
        function(blocks.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
        return out


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.astype(np.float32).view(np.uint32))


def line(library: Library, case: str, name: str, matrices: list[np.ndarray], seeds: list[int]) -> str:
    """One line of goldens; the checksums are over all matrices."""
    crcs, crc_of_values = [0, 0, 0], 0
    kind = getattr(gguf.GGMLQuantizationType, name.upper(), None)
    for x, seed in zip(matrices, seeds):
        for i, importance in enumerate([None, *importances(seed, x.shape[1])]):
            blocks = library.encode(name, x, importance)
            crcs[i] = zlib.crc32(blocks.tobytes(), crcs[i])
            values = library.decode(name, blocks, x.shape[1])
            if i == 0:
                crc_of_values = zlib.crc32(values.tobytes(), crc_of_values)
            try:
                assert kind is None or same(values, gguf.quants.dequantize(blocks, kind)), f"{case} {name}: gguf decodes otherwise"
            except NotImplementedError:
                pass
    if not TYPES[name][2]:
        assert crcs[0] == crcs[1] == crcs[2], f"{name} depends on importances"
    return " ".join([case, name.lower(), *(f"{c:08x}" for c in crcs), f"{crc_of_values:08x}"])


def matrices_of(folder: Path) -> list[np.ndarray]:
    """The matrices of a model's first block, in the order of their names."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    result = []
    for name in sorted(header):
        entry = header[name]
        if ".layers.0." not in name or len(entry["shape"]) != 2:
            continue
        start, end = entry["data_offsets"]
        raw = np.frombuffer(data, np.uint8, end - start, 8 + size + start)
        if entry["dtype"] == "BF16":
            values = (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            assert entry["dtype"] == "F32", name
            values = raw.copy().view(np.float32)
        result.append(np.ascontiguousarray(values.reshape(entry["shape"])))
    return result


def goldens(library: Library, models: Path | None, note: str) -> str:
    lines = [f"# tools/goldens/blocks.py, {note}, gguf {version('gguf')}"]
    for case, x in cases().items():
        lines += [line(library, case, name, [x], [2]) for name in TYPES]
    for model in ["TinyStories-656K", "llama-4m"] if models else []:
        every = matrices_of(models / model)
        for name, (weights, _, _) in TYPES.items():
            if all(x.shape[1] % weights == 0 for x in every):
                lines.append(line(library, model, name, every, list(range(1, len(every) + 1))))
    return "\n".join(lines) + "\n"


def rates(library: Library) -> None:
    u = uniforms(1, 4 * 8 * 4096).reshape(8, 4096, 4)
    x = np.ascontiguousarray(((u[..., 0] + u[..., 1] + u[..., 2] - 1.5) * (0.01 + 0.1 * u[..., 3] ** 4)).astype(np.float32))
    importance = importances(2, 4096)[0]

    def rate(run) -> float:
        best, start = np.inf, time.perf_counter()
        while time.perf_counter() - start < 0.6:
            before = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - before)
        return x.size / best / 1e6

    print(f"{'type':8} {'encode':>22} {'with importance':>22} {'decode':>14}")
    for name in TYPES:
        blocks = library.encode(name, x, None)
        plain, weighted = (rate(lambda: library.encode(name, x, d)) for d in (None, importance))
        decoded = rate(lambda: library.decode(name, blocks, x.shape[1]))
        print(f"{name:8} {plain:8.1f} M weights/s {weighted:8.1f} M weights/s {decoded * 4e-3:6.1f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--models", type=Path, help="folder with the models TinyStories-656K and llama-4m")
    parser.add_argument("--note", default="", help="which library this is; goes into OUT")
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    library = Library(args.library)
    if args.time:
        rates(library)
    if args.out:
        args.out.write_text(goldens(library, args.models, args.note))


if __name__ == "__main__":
    main()
