"""Rounds float models with HQQ on the CPU and evaluates the results.

    python hqq_run.py MODEL --validation validation.txt --out results/hqq-MODEL.json [--bits 4,3,2] [--group-size 128] [--limit N]

HQQ's own quantizer (``pip install --no-deps hqq==0.2.8.post1``) on the linear layers of the blocks, f32, groups along the inputs (axis 1, as every engine has
them) with zero points in floats, at its default settings. Evaluation: evaluate.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from evaluate import all_logits, compare, load_float, split_stories, tokenize
from hqq.core.quantize import Quantizer


@torch.inference_mode()
def quantize(model: torch.nn.Module, bits: int, group: int) -> float:
    began = time.time()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            codes, meta = Quantizer.quantize(
                module.weight.data, nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=torch.float32, bitpack=False
            )
            meta["compute_dtype"] = torch.float32
            module.weight.data = Quantizer.dequantize(codes.float(), meta).reshape(module.weight.shape)
    return time.time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", default="4,3,2")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    stories = tokenize(args.model, split_stories(args.validation)[: args.limit])
    base = all_logits(load_float(args.model), stories)
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    for bits in map(int, args.bits.split(",")):
        model = load_float(args.model)
        seconds = quantize(model, bits, args.group_size)
        row = {"model": args.model.name, "tool": "hqq 0.2.8.post1", "bits": bits, "group_size": args.group_size, "limit": args.limit}
        rows.append(row | {"seconds": round(seconds, 2)} | compare(base, model.eval(), stories))
        print(rows[-1]["model"], bits, args.group_size, rows[-1]["kld"], flush=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
