"""Small GGUF files written by the ``gguf`` Python package, with what that package reads from them.

    python tools/goldens/gguf_files.py write crates/checkpoint/testdata/gguf     the files and their .json
    python tools/goldens/gguf_files.py read FILE...                              .json of other files, printed
    python tools/goldens/gguf_files.py model FILE                                a tiny random llama, to measure an importance matrix of

``pip install gguf==0.19.0 numpy`` is all it needs. The .json holds, in the order of the file, ``[key, type, value]`` (an array's type is ``[element]``)
and for each tensor name, type, dimensions fastest first, CRC-32 of its bytes, and CRC-32 of its values as little-endian f32 where the package can
decode the type.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFReader, GGUFValueType as V, GGUFWriter
from gguf.quants import dequantize, quantize

SEED = 20
FLOATS = {T.F32, T.F16, T.BF16, T.F64}
# Made by the package's own encoder.
ENCODED = [T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.TQ1_0, T.TQ2_0, T.MXFP4]
# The package only decodes these: random bytes whose values are finite.
DECODED = [T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.NVFP4]
# Carried, not decoded.
CARRIED = [T.IQ2_XXS, T.IQ1_M]
VALUES = {
    V.UINT8: 200, V.INT8: -100, V.UINT16: 60_000, V.INT16: -30_000, V.UINT32: 4_000_000_000, V.INT32: -2_000_000_000,
    V.FLOAT32: 0.15625, V.BOOL: True, V.STRING: "żółw 🐢\n", V.UINT64: 2**64 - 1, V.INT64: -(2**63), V.FLOAT64: 1e-300,
}
ARRAYS = {
    V.UINT8: [1, 255], V.INT8: [-1, 127], V.UINT16: [1, 65_535], V.INT16: [-32_768, 5], V.UINT32: [2**32 - 1, 0],
    V.INT32: [-(2**31), 1, 2], V.FLOAT32: [0.5, -3.0], V.BOOL: [True, False, True], V.STRING: ["a", "", "▁the", "ü"],
    V.UINT64: [2**63], V.INT64: [-1, 2**62], V.FLOAT64: [1e300],
}


def finite_blocks(kind: T, rows: int, row: int, random: np.random.Generator) -> np.ndarray:
    """Random blocks whose values are all finite and of moderate size."""
    weights, size = GGML_QUANT_SIZES[kind]
    blocks = np.zeros((rows * row // weights, size), np.uint8)
    for block in blocks:
        while True:
            block[:] = random.integers(0, 256, size, np.uint8)
            values = dequantize(block.reshape(1, -1), kind)
            if np.isfinite(values).all() and np.abs(values).max() < 1e6:
                break
    return blocks.reshape(rows, -1)


def write_kinds(path: Path) -> None:
    random = np.random.default_rng(SEED)
    writer = GGUFWriter(path, "llama")
    for kind, value in VALUES.items():
        writer.add_key_value(f"value.{kind.name.lower()}", value, kind)
    for kind, value in ARRAYS.items():
        writer.add_key_value(f"array.{kind.name.lower()}", value, V.ARRAY, sub_type=kind)
    writer.add_tensor("vector", random.standard_normal(5, np.float32))
    writer.add_tensor("f16", random.standard_normal((3, 7)).astype(np.float16))
    writer.add_tensor("f64", random.standard_normal((2, 3, 1, 2)))
    for kind in ["int8", "int16", "int32", "int64"]:
        writer.add_tensor(kind, random.integers(-100, 100, (2, 3)).astype(kind))
    values = random.standard_normal((2, 512), np.float32)
    for kind in ENCODED:
        writer.add_tensor(kind.name.lower(), quantize(values, kind), raw_dtype=kind)
    for kind in DECODED:
        writer.add_tensor(kind.name.lower(), finite_blocks(kind, 2, 512, random), raw_dtype=kind)
    for kind in CARRIED:
        weights, size = GGML_QUANT_SIZES[kind]
        bytes_ = random.integers(0, 256, (2, 512 // weights * size), np.uint8)
        writer.add_tensor(kind.name.lower(), bytes_, raw_dtype=kind)
    finish(writer)


def write_aligned(path: Path) -> None:
    writer = GGUFWriter(path, "gpt2")
    writer.add_custom_alignment(128)
    writer.add_tensor("a", np.arange(3, dtype=np.float32))
    writer.add_tensor("b", np.arange(40, dtype=np.int8))
    finish(writer)


def write_split(path: Path) -> None:
    writer = GGUFWriter(path, "llama", split_max_tensors=2)
    writer.add_block_count(1)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full((2, 3), i, np.float32))
    finish(writer)


def write_model(path: Path) -> None:
    """A llama of one layer whose vocabulary is the 256 bytes."""
    random = np.random.default_rng(SEED)
    embd, ff, heads = 32, 48, 2
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(embd)
    writer.add_block_count(1)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(embd // heads)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *[6] * 256])
    matrices = {
        "token_embd": (len(tokens), embd), "output": (len(tokens), embd), "blk.0.attn_q": (embd, embd), "blk.0.attn_k": (embd, embd),
        "blk.0.attn_v": (embd, embd), "blk.0.attn_output": (embd, embd), "blk.0.ffn_gate": (ff, embd), "blk.0.ffn_up": (ff, embd),
        "blk.0.ffn_down": (embd, ff),
    }
    for name, shape in matrices.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, np.float32) / 8)
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(embd, np.float32))
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def description(path: Path) -> dict:
    """What the package reads from a file."""
    reader = GGUFReader(path)
    metadata = []
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        names = [kind.name.lower() for kind in field.types]
        value = field.contents()
        metadata.append([key, names[0] if len(names) == 1 else [names[1]], value])
    tensors = []
    for tensor in reader.tensors:
        raw = np.ascontiguousarray(tensor.data)
        values = None
        if tensor.tensor_type in FLOATS | set(ENCODED) | set(DECODED):
            if tensor.tensor_type == T.F64:
                values = tensor.data.astype("<f4")
            else:
                values = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
            values = zlib.crc32(np.ascontiguousarray(values).tobytes())
        dims = [int(d) for d in tensor.shape]
        tensors.append([tensor.name, tensor.tensor_type.name, dims, zlib.crc32(raw.tobytes()), values])
    return {"metadata": metadata, "tensors": tensors}


def show(description: dict) -> str:
    """JSON with an entry a line."""
    lines = {
        key: ",\n".join("    " + json.dumps(entry, ensure_ascii=False) for entry in entries)
        for key, entries in description.items()
    }
    return "{\n" + ",\n".join(f'  "{key}": [\n{text}\n  ]' for key, text in lines.items()) + "\n}\n"


def main() -> None:
    match sys.argv[1:]:
        case ["write", out]:
            folder = Path(out)
            folder.mkdir(parents=True, exist_ok=True)
            write_kinds(folder / "kinds.gguf")
            write_aligned(folder / "aligned.gguf")
            write_split(folder / "split.gguf")
            for path in sorted(folder.glob("*.gguf")):
                path.with_suffix(".json").write_text(show(description(path)), encoding="utf-8")
        case ["model", path]:
            write_model(Path(path))
        case ["read", *paths] if paths:
            for path in paths:
                print(show(description(Path(path))), end="")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
