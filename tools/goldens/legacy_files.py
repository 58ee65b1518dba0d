"""Tiny llama files of the formats before GGUF, with random blocks, and what llama.cpp's own converter makes of them.

    python tools/goldens/legacy_files.py crates/checkpoint/testdata/legacy LLAMA_CPP/convert_llama_ggml_to_gguf.py

Needs numpy and gguf (0.19.0). The converter takes blocks only where they lie as in GGUF: any of version 3, the five-bit ones of version 2. It gives
shapes in weights, which the package has taken for bytes since 0.9.1; that one function is replaced here.
"""

from __future__ import annotations

import random
import runpy
import sys
from pathlib import Path

import gguf.gguf_writer

from fuzz_seeds import f32, pad, u32

EMBD, FF, HEADS, SEED = 32, 64, 2, 3
TOKENS = [b"<unk>", b"<s>", b"</s>", b"\x0a", b" ", b" the", b"a", b"\xc3\xbc"]
# Weights and bytes of a block, and where its halves lie: these must be no NaN.
BLOCKS = {0: (1, 4, []), 1: (1, 2, [0]), 2: (32, 18, [0]), 3: (32, 20, [0, 2]), 6: (32, 22, [0]), 7: (32, 24, [0, 2]), 8: (32, 34, [0])}


def tensor(name: str, dims: list[int], kind: int) -> tuple[str, list[int], int, bytes]:
    weights, size, halves = BLOCKS[kind]
    n = dims[0] * (dims[1] if len(dims) > 1 else 1) // weights
    if kind == 0:
        return name, dims, kind, f32(*(random.uniform(-1, 1) for _ in range(n)))
    data = b""
    for _ in range(n):
        block = bytearray(random.randbytes(size))
        for at in halves:
            # The exponent of a number between 2^-7 and 2.
            block[at + 1] = block[at + 1] & 0x83 | random.randrange(8, 16) << 2
        data += block
    return name, dims, kind, data


def file(version: int, ftype: int, kinds: list[int]) -> bytes:
    random.seed(SEED)
    turn = iter(kinds * 9)
    matrix = lambda name, dims: tensor(name, dims, next(turn))
    layer = "layers.0"
    tensors = [
        matrix("tok_embeddings.weight", [EMBD, len(TOKENS)]),
        tensor("norm.weight", [EMBD], 0),
        matrix("output.weight", [EMBD, len(TOKENS)]),
        *(matrix(f"{layer}.attention.w{w}.weight", [EMBD, EMBD]) for w in "qkvo"),
        tensor(f"{layer}.attention_norm.weight", [EMBD], 0),
        matrix(f"{layer}.feed_forward.w1.weight", [EMBD, FF]),
        matrix(f"{layer}.feed_forward.w2.weight", [FF, EMBD]),
        matrix(f"{layer}.feed_forward.w3.weight", [EMBD, FF]),
        tensor(f"{layer}.ffn_norm.weight", [EMBD], 0),
    ]
    out = b"tjgg" + u32(version) + u32(len(TOKENS), EMBD, FF, HEADS, 1, EMBD // HEADS, ftype)
    for i, token in enumerate(TOKENS):
        out += u32(len(token)) + token + f32(-i)
    for name, dims, kind, data in tensors:
        out = pad(out + u32(len(dims), len(name), kind) + u32(*dims) + name.encode(), 32) + data
    return out


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, converter = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    gguf.gguf_writer.quant_shape_from_byte_shape = lambda shape, _: shape
    for name, data in {"ggjt2": file(2, 8, [6, 7, 1]), "ggjt3": file(3, 2, [2, 3, 6, 7, 8, 1])}.items():
        paths = folder / f"{name}.bin", folder / f"{name}.gguf"
        paths[0].write_bytes(data)
        sys.argv = [converter, "--input", str(paths[0]), "--output", str(paths[1]), "--eps", "1e-5", "--context-length", "64"]
        runpy.run_path(converter, run_name="__main__")


if __name__ == "__main__":
    main()
