"""Tiny valid files for the fuzz targets gguf, imatrix and legacy.

    python tools/goldens/fuzz_seeds.py fuzz/seeds

Needs nothing but Python. Every file holds a few values of each kind that its format has, so that a fuzzer finds the others by changing bytes.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def gguf(keys: list[tuple[str, int, bytes]], tensors: list[tuple[str, list[int], int, bytes]], version: int = 3, alignment: int = 32) -> bytes:
    size = u32 if version == 1 else u64
    text = lambda s: size(len(s)) + s.encode()
    out = b"GGUF" + u32(version) + size(len(tensors)) + size(len(keys))
    for key, kind, value in keys:
        out += text(key) + u32(kind) + (text(value) if isinstance(value, str) else value)
    data = b""
    for name, dims, kind, values in tensors:
        out += text(name) + u32(len(dims)) + size(*dims) + u32(kind) + u64(len(data))
        data += pad(values, alignment)
    return pad(out, alignment) + data if tensors else out


def gguf_seeds() -> dict[str, bytes]:
    arch = ("general.architecture", 8, "llama")
    vector = ("t", [3, 2], 0, f32(0, 1, 2, 3, 4, 5))
    scalars = [
        ("a", 0, b"\xff"), ("b", 1, b"\xff"), ("c", 2, b"\x01\x02"), ("d", 3, b"\x01\x02"), ("e", 4, u32(5)), ("f", 5, u32(5)),
        ("g", 6, f32(0.5)), ("h", 7, b"\x01"), ("i", 8, "text"), ("j", 10, u64(1)), ("k", 11, u64(2)), ("l", 12, struct.pack("<d", 2.5)),
    ]
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    arrays = [(f"a{kind}", 9, u32(kind) + u64(2) + bytes(2 * width)) for kind, width in widths.items()]
    arrays.append(("a8", 9, u32(8) + u64(2) + u64(1) + b"x" + u64(0)))
    blocks = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 12: (256, 144), 20: (32, 18), 39: (32, 17), 40: (64, 36)}
    quantized = [(f"q{kind}", [n], kind, bytes(range(size))) for kind, (n, size) in blocks.items()]
    plain = [("h", [2], 1, bytes(4)), ("b", [2], 30, bytes(4)), ("d", [1], 28, bytes(8)), ("i", [3], 24, bytes(3)), ("z", [], 0, bytes(4))]
    return {
        "worked": gguf([arch, ("a.b", 4, u32(5))], [vector]),
        "scalars": gguf(scalars, []),
        "arrays": gguf(arrays, []),
        "blocks": gguf([], quantized),
        "plain": gguf([("general.alignment", 4, u32(8))], plain, alignment=8),
        "v1": gguf([arch], [vector], version=1),
        "split": gguf([("split.no", 2, b"\0\0"), ("split.count", 2, b"\1\0"), ("split.tensors.count", 5, u32(1))], [vector]),
    }


def imatrix_seeds() -> dict[str, bytes]:
    entry = lambda name, values: u32(len(name)) + name.encode() + u32(2, len(values)) + f32(*values)
    entries = u32(2) + entry("a", [1, 2]) + entry("b", [0.5])
    keys = [("imatrix.datasets", 9, u32(8) + u64(1) + u64(1) + b"x"), ("imatrix.chunk_count", 4, u32(3)), ("imatrix.chunk_size", 4, u32(8))]
    tensors = [("a.in_sum2", [2, 2], 0, f32(1, 2, 0, 0)), ("a.counts", [1, 2], 0, f32(24, 0))]
    return {"old.dat": entries, "with_dataset.dat": entries + u32(3, 1) + b"x", "experts.gguf": gguf(keys, tensors)}


def ggml(magic: bytes, ggjt: bool, tensors: list[tuple[str, list[int], int, bytes]], n_embd: int = 32) -> bytes:
    out = magic + u32(2, n_embd, 256, 4, 1, 8, 2)
    for token in [b"<unk>", b" a"]:
        out += u32(len(token)) + token + (b"" if magic == b"lmgg" else f32(-1))
    for name, dims, kind, values in tensors:
        out += u32(len(dims), len(name), kind) + u32(*dims) + name.encode()
        out = (pad(out, 32) if ggjt else out) + values
    return out


def llama2c(version: int, shared: bool) -> bytes:
    dim, hidden, layers, heads, kv_heads, vocab, seq, group = 4, 4, 1, 2, 1, 2, 1, 4
    numbers = [dim, hidden, layers, heads, kv_heads, vocab if shared or version else -vocab, seq]
    header = struct.pack("<7i", *numbers)
    vectors = {"norm": dim, "table": seq * (dim // heads // 2) * 2}
    kv = dim // heads * kv_heads
    matrices = [vocab * dim, dim * dim, dim * kv, dim * kv, dim * dim, dim * hidden, dim * hidden, dim * hidden] + [vocab * dim] * (not shared)
    n_norms = 2 * layers + 1
    if version == 0:
        count = sum(matrices) + n_norms * vectors["norm"] + vectors["table"]
        return header + f32(*[0.25] * count)
    header = b"24ka" + u32(version) + header + bytes([shared]) + (u32(group) if version == 2 else b"")
    out = header + bytes(256 - len(header)) + f32(*[1.0] * (n_norms * dim))
    for n in matrices:
        out += f32(*[0.25] * n) if version == 1 else bytes([3] * n) + f32(*[0.5] * (n // group))
    return out


def legacy_seeds() -> dict[str, bytes]:
    old = [("w", [32, 1], 2, f32(0.5) + bytes(range(16))), ("v", [2], 0, f32(1, 2)), ("h", [2], 1, bytes(4))]
    wide = [
        ("a", [32], 3, f32(0.5, 0.3) + bytes(16)), ("b", [32], 8, f32(0.1) + bytes(range(32))),
        ("c", [32], 6, b"\0\x3c" + bytes(20)), ("d", [32], 7, b"\0\x3c\0\x30" + bytes(20)),
    ]
    modern = [("a", [32], 2, b"\0\x3c" + bytes(16)), ("k", [256], 14, bytes(210))]
    half = [("tok_embeddings.weight", [32, 2], 2, (f32(0.5) + bytes(16)) * 2), ("output.weight", [32, 1], 0, f32(*[1.0] * 32))]
    seeds = {
        "ggml": ggml(b"lmgg", False, old),
        "ggmf": ggml(b"fmgg" + u32(1), False, old),
        "ggjt1": ggml(b"tjgg" + u32(1), True, wide),
        "ggjt2": ggml(b"tjgg" + u32(2), True, wide),
        "ggjt3": ggml(b"tjgg" + u32(3), True, modern),
        "parts": ggml(b"lmgg", False, half, n_embd=64),
        "tokenizer": u32(3) + b"".join(f32(-1) + u32(len(t)) + t for t in [b"abc", b"", b"\xff"]),
    }
    for version in range(3):
        for shared in (True, False):
            seeds[f"llama2c_v{version}_{'shared' if shared else 'own'}"] = llama2c(version, shared)
    return seeds


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for target, seeds in {"gguf": gguf_seeds(), "imatrix": imatrix_seeds(), "legacy": legacy_seeds()}.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
