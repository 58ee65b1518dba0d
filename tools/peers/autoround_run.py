"""Quantizes one float model with AutoRound on the CPU and evaluates the result.

    python autoround_run.py MODEL --calibration calibration.txt --validation validation.txt --out results/autoround.json \
        --bits 3 --group-size 64 [--iters 200] [--limit N]

An environment of its own: the one of README.md, and ``pip install --no-deps auto-round==0.16.1``. AutoRound's defaults (signed descent, 200 steps of
8 windows, learning rate 1 / 200, best step kept), affine, on f32 weights without mixed precision. Calibration: the stories in order, each after BOS, joined
and cut into windows, as our programs do. Evaluation: evaluate.py. Appends one object to OUT.
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
from auto_round import AutoRound
from transformers import AutoTokenizer

from evaluate import all_logits, compare, load_float, split_stories, tokenize


def windows(folder: Path, text: Path, count: int, length: int) -> list[dict[str, torch.Tensor]]:
    ids: list[int] = []
    for story in tokenize(folder, split_stories(text), max_tokens=None):
        ids += story
        if len(ids) >= count * length:
            break
    rows = [ids[i * length : (i + 1) * length] for i in range(min(count, len(ids) // length))]
    return [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, length, dtype=torch.long)} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--sym", action="store_true")
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--limit", type=int, default=128)
    args = parser.parse_args()

    stories = tokenize(args.model, split_stories(args.validation)[: args.limit])
    model = load_float(args.model)
    base = all_logits(model, stories)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    began = time.time()
    rounder = AutoRound(
        model,
        tokenizer,
        scheme=f"W{args.bits}A16",
        bits=args.bits,
        group_size=args.group_size,
        sym=args.sym,
        iters=args.iters,
        nsamples=args.windows,
        seqlen=args.length,
        batch_size=8,
        dataset=windows(args.model, args.calibration, args.windows, args.length),
        device_map="cpu",
        amp=False,
        low_gpu_mem_usage=False,
        enable_torch_compile=False,
    )
    quantized, _ = rounder.quantize()
    seconds = time.time() - began
    result = {
        "model": args.model.name,
        "bits": args.bits,
        "group_size": args.group_size,
        "symmetric": args.sym,
        "iters": args.iters,
        "seconds": round(seconds, 1),
        **compare(base, quantized.float().eval(), stories),
    }
    print(json.dumps(result))
    done = json.loads(args.out.read_text()) if args.out.exists() else []
    args.out.write_text(json.dumps([*done, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
