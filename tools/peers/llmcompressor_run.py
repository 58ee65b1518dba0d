"""Quantizes one float model with llm-compressor's GPTQ on the CPU and evaluates the result.

    python llmcompressor_run.py MODEL --calibration calibration.txt --validation validation.txt --out results/llmcompressor.json \
        [--bits 4] [--group-size 128] [--limit N]

Affine integers of groups, f32 weights, everything else as its modifier has it (act-order with static groups, damping 0.01, ranges by min-max). Calibration tokens and windows: those of gptqmodel_run.py. Evaluation: evaluate.py. Appends one object to OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier

from evaluate import all_logits, compare, load_float, split_stories, tokenize
from gptqmodel_run import calibration_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    stories = tokenize(args.model, split_stories(args.validation)[: args.limit])
    model = load_float(args.model)
    base = all_logits(model, stories)
    windows = calibration_windows(args.model, args.calibration)
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(w) for w in windows]})
    weights = {"num_bits": args.bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": args.group_size}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    began = time.time()
    oneshot(
        model=model,
        dataset=data,
        recipe=GPTQModifier(config_groups=groups, ignore=["lm_head"]),
        max_seq_length=len(windows[0]),
        num_calibration_samples=len(windows),
    )
    seconds = time.time() - began
    rounded = load_float(args.model)
    with torch.inference_mode():
        for name, module in rounded.named_modules():
            done = model.get_submodule(name)
            if hasattr(done, "weight_scale"):
                scale = done.weight_scale.half().float().repeat_interleave(args.group_size, 1)[:, : module.in_features]
                zero = done.weight_zero_point.float().repeat_interleave(args.group_size, 1)[:, : module.in_features]
                half = 2 ** (args.bits - 1)
                code = (done.weight.float() / scale + zero).round().clamp(-half, half - 1)
                module.weight.data = (code - zero) * scale
            elif hasattr(module, "weight") and module.weight.shape == done.weight.shape:
                module.weight.data = done.weight.data.float()
    row = {
        "model": args.model.name,
        "tool": "llmcompressor 0.9.0.5",
        "method": "gptq",
        "bits": args.bits,
        "group_size": args.group_size,
        "limit": args.limit,
        "seconds": round(seconds, 1),
        **compare(base, rounded.eval(), stories),
    }
    print(json.dumps(row))
    done = json.loads(args.out.read_text()) if args.out.exists() else []
    args.out.write_text(json.dumps([*done, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
