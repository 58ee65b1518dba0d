"""Small quantized checkpoints written by GPTQModel and llm-compressor themselves, for the tests of our readers.

    python fixtures.py OUT [--only NAME ...]

Each OUT/<name>/ holds config.json (and quantize_config.json), model.safetensors, and expected.safetensors: the f32
weights [out, in] of every quantized linear as the tool itself decodes its file (scale widened to f32 first). The
model is a one-layer random Llama: hidden 64, intermediate 96, 4 heads on 2, vocabulary 64. OUT/README.md says what
each one is for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no idle compiler processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from load_ours import check, dummy_tokenizer

AFFINE_ORDER = {"sym": False, "desc_act": True, "act_group_aware": False}
GPTQ: dict[str, dict] = {
    "gptqmodel-4bit-sym": {"bits": 4},
    "gptqmodel-4bit-affine-actorder": {"bits": 4, **AFFINE_ORDER},
    "gptqmodel-4bit-affine-borrow": {"bits": 4, "sym": False},
    "gptqmodel-4bit-affine-v2": {"bits": 4, "sym": False, "format": "gptq_v2"},
    "gptqmodel-4bit-channel": {"bits": 4, "group_size": -1, "act_group_aware": False},
    "gptqmodel-2bit-sym": {"bits": 2},
    "gptqmodel-2bit-affine-actorder": {"bits": 2, **AFFINE_ORDER},
    "gptqmodel-3bit-sym": {"bits": 3},
    "gptqmodel-3bit-affine-actorder": {"bits": 3, **AFFINE_ORDER},
    "gptqmodel-3bit-affine-v2": {"bits": 3, "sym": False, "format": "gptq_v2"},
    "gptqmodel-8bit-sym": {"bits": 8},
}
COMPRESSED: dict[str, tuple[dict, torch.dtype]] = {
    "ct-int4-sym-g32": ({"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32}, torch.float16),
    "ct-int4-affine-g32": ({"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}, torch.bfloat16),
    "ct-int8-channel": ({"num_bits": 8, "symmetric": True, "strategy": "channel"}, torch.float16),
    "ct-int3-sym-g32": ({"num_bits": 3, "symmetric": True, "strategy": "group", "group_size": 32}, torch.float32),
}


def source(name: str, folder: Path, dtype: torch.dtype) -> None:
    """A random float model; for the borrow case some groups hold positive weights only, so that their zero is 0."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for key, p in model.named_parameters():
            rng = np.random.default_rng(zlib.crc32(key.encode()))
            x = rng.standard_normal(tuple(p.shape)) * (0.7 if "embed" in key else 1.5 / np.sqrt(p.shape[-1]))
            if p.dim() == 1:
                x = 1.0 + 0.2 * rng.standard_normal(tuple(p.shape))
            elif "borrow" in name and "embed" not in key:
                x[::3, :32] = np.abs(x[::3, :32])
            p.copy_(torch.from_numpy(x))
    model.to(dtype).save_pretrained(folder)
    dummy_tokenizer(folder, 64)


def write_gptq(options: dict, model_dir: Path, out: Path) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(**({"group_size": 32} | options), device="cpu", offload_to_disk=False)
    model = GPTQModel.load(str(model_dir), config, dtype=torch.float32)
    rng = np.random.default_rng(21)
    rows = [rng.integers(3, 64, 48).tolist() for _ in range(16)]
    model.quantize([{"input_ids": r, "attention_mask": [1] * len(r)} for r in rows], batch_size=1)
    model.save(str(out))


def write_compressed(args: dict, model_dir: Path, out: Path, dtype: torch.dtype) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=dtype)
    groups = {"group_0": {"targets": ["Linear"], "weights": {"type": "int", **args}}}
    oneshot(model=model, recipe=QuantizationModifier(config_groups=groups, ignore=["lm_head"]))
    model.save_pretrained(out, save_compressed=True, quantization_format="pack-quantized")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*GPTQ, *COMPRESSED], default=[*GPTQ, *COMPRESSED])
    args = parser.parse_args()
    out = args.out.resolve()
    if len(args.only) > 1:  # one process each: the tools patch transformers for the rest of theirs
        for name in args.only:
            subprocess.run([sys.executable, __file__, str(out), "--only", name], check=True)
        return
    work = Path(tempfile.mkdtemp())
    os.chdir(work)
    for name in args.only:
        dtype = COMPRESSED[name][1] if name in COMPRESSED else torch.float16
        source(name, work / "source", dtype)
        made = work / name
        if name in GPTQ:
            write_gptq(GPTQ[name], work / "source", made)
        else:
            write_compressed(COMPRESSED[name][0], work / "source", made, dtype)
        weights, report = check(made, None, None)
        assert report["ok"], report
        target = out / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in made.iterdir():
            if file.name in ("config.json", "quantize_config.json") or file.suffix == ".safetensors":
                shutil.copyfile(file, target / file.name)
        save_file({k + ".weight": w for k, w in weights.items()}, target / "expected.safetensors")
        for file in target.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in target.iterdir()) / 1024
        print(f"{name:34} {size:6.1f} KiB  tool's logits differ by {report['tool_logits_max_difference']:.4f}", flush=True)


if __name__ == "__main__":
    main()
