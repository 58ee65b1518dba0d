"""MLX as the judge of folders of ours, and the author of some.

    python mlx_files.py read DIR... --reports OUT    decodes every quantized module with mlx.core.dequantize; OUT/<folder>.json holds a CRC-32 of each, in f32
    python mlx_files.py perplexity DIR TEXT          loads the folder with mlx-lm; stories between <|endoftext|> lines, each after the token that begins a text
    python mlx_files.py fixtures OUT                 small folders that mlx.core.quantize wrote, with what it decodes: crates/checkpoint/testdata/mlx

Needs mlx[cpu], mlx-lm, numpy; seen with mlx 0.32.4 and mlx-lm 0.32.2 on an x86-64 CPU. Scales and biases are widened to f32 before MLX multiplies, so that
products are exact; mxfp4 and nvfp4 decode to bf16, which holds their values. Exit status 1 if something differs.
"""

import json
import sys
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)


def settings(config, module):
    base = {k: v for k, v in config["quantization"].items() if k in ("group_size", "bits", "mode")}
    own = config["quantization"].get(module)
    return base | (own if isinstance(own, dict) else {})


def decode(tensors, module, how):
    weight, scales = tensors[f"{module}.weight"], tensors[f"{module}.scales"]
    if how.get("mode", "affine") != "affine":
        return np.array(mx.dequantize(weight, scales, **how).astype(mx.float32))
    biases = tensors[f"{module}.biases"].astype(mx.float32)
    return np.array(mx.dequantize(weight, scales.astype(mx.float32), biases, **how))


def modules(folder):
    config = json.loads((folder / "config.json").read_text())
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= mx.load(str(file))
    names = sorted(name.removesuffix(".scales") for name in tensors if name.endswith(".scales"))
    return {name: decode(tensors, name, settings(config, name)) for name in names}


def read(folders, out):
    for folder in map(Path, folders):
        # The sign of a zero is nothing that a file stores.
        crc = {name: (w.shape, zlib.crc32((w + np.float32(0)).tobytes())) for name, w in modules(folder).items()}
        report = {name: {"shape": list(shape), "crc32": f"{value:08x}"} for name, (shape, value) in crc.items()}
        (Path(out) / f"{folder.name}.json").write_text(json.dumps({"tool": "mlx", "modules": report}))
    return True


def perplexity(folder, text):
    from mlx_lm.utils import load_model
    from tokenizers import Tokenizer

    folder = Path(folder)
    model, config = load_model(folder)
    model.set_dtype(mx.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    nll, count = 0.0, 0
    for story in Path(text).read_text().split("<|endoftext|>"):
        ids = tokenizer.encode(story.strip(), add_special_tokens=False).ids
        if not ids:
            continue
        ids = ([config["bos_token_id"]] + ids)[:512]
        logits = np.array(model(mx.array(ids)[None])[0]).astype(np.float64)[:-1]
        logits -= logits.max(-1, keepdims=True)
        nll += float(np.sum(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids) - 1), ids[1:]]))
        count += len(ids) - 1
    print(json.dumps({"tokens": count, "perplexity": float(np.exp(nll / count))}))
    return True


def fixtures(out):
    random = np.random.default_rng(7)
    cases = [(bits, group, kind) for bits, group, kind in zip((2, 3, 4, 5, 6, 8), (32, 64, 128, 32, 64, 128), ("float16", "bfloat16", "float32") * 2)]
    for bits, group, kind in cases:
        write(Path(out), f"int{bits}-g{group}-{kind}", random, {"group_size": group, "bits": bits, "mode": "affine"}, getattr(mx, kind))
    write(Path(out), "mxfp4", random, {"group_size": 32, "bits": 4, "mode": "mxfp4"}, mx.bfloat16)
    write(Path(out), "nvfp4", random, {"group_size": 16, "bits": 4, "mode": "nvfp4"}, mx.bfloat16)
    return True


def write(out, name, random, how, dtype):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    weight = random.standard_normal((6, 256)).astype(np.float32)
    weight[1, :64] = 0  # a group of zeros
    weight[2, 5] = 12  # an outlier
    weight[3] = np.abs(weight[3]) + 0.5  # none near zero
    weight = mx.array(weight).astype(dtype)
    tensors = {"a.weight.float": weight.astype(mx.float32)}
    parts = mx.quantize(weight, **how)
    # Another width by name.
    other = how | {"bits": 8} if how["mode"] == "affine" else how
    for module, parts in (("a", parts), ("b", mx.quantize(weight, **other))):
        tensors |= {f"{module}.{part}": value for part, value in zip(("weight", "scales", "biases"), parts)}
    tensors["norm.weight"] = mx.ones((6,), dtype=dtype)
    float_weight = np.array(tensors.pop("a.weight.float"))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    config = {"model_type": "llama", "quantization": how | ({"b": other} if other != how else {})}
    config["quantization_config"] = config["quantization"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    decoded = modules(folder)
    float_weight.astype("<f4").tofile(folder / "a.float.f32")
    for module, values in decoded.items():
        values.astype("<f4").tofile(folder / f"{module}.f32")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", *folders, "--reports", out]:
            done = read(folders, out)
        case ["perplexity", folder, text]:
            done = perplexity(folder, text)
        case ["fixtures", out]:
            done = fixtures(out)
        case _:
            sys.exit(__doc__)
    sys.exit(0 if done else 1)
