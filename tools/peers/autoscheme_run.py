"""Lets AutoRound's AutoScheme share out bits among the layers of one float model, tunes the result, and evaluates it.

    python autoscheme_run.py MODEL --calibration calibration.txt --validation validation.txt --out results/autoscheme.json --bits 3.5 [--iters 200]

The environment of autoround_run.py. AutoScheme measures layers by gradients on the text that AutoRound then tunes on; it chooses among affine grids of --options with groups of
--group-size; --bits counts scales and zero points, as ours does. Evaluation: evaluate.py. Appends one object to OUT, with the average that was reached and each layer's bits.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

# Otherwise it makes its 8-bit option symmetric and then refuses to tune such a layer as affine.
os.environ.setdefault("AR_ALLOW_W8_ASYM", "1")

from autoround_run import windows
from auto_round import AutoRound, AutoScheme
from auto_round.schemes import QuantizationScheme
from transformers import AutoTokenizer

from evaluate import all_logits, compare, load_float, split_stories, tokenize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=float, required=True)
    parser.add_argument("--options", default="2,3,4,8")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--limit", type=int, default=128)
    args = parser.parse_args()

    stories = tokenize(args.model, split_stories(args.validation)[: args.limit])
    model = load_float(args.model)
    base = all_logits(model, stories)
    linear = {name: m.weight.numel() for name, m in model.named_modules() if name.endswith("_proj")}
    # Gradients tell AutoScheme what a layer matters.
    model.requires_grad_(True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    options = [QuantizationScheme(bits=int(bits), group_size=args.group_size, sym=False, act_bits=16) for bits in args.options.split(",")]
    common = {"device_map": "cpu", "amp": False, "low_gpu_mem_usage": False, "enable_torch_compile": False, "batch_size": 8}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as text:
        # AutoScheme reads texts from a file, and takes those that fill a window.
        joined = split_stories(args.calibration)
        for first in range(0, len(joined) - 4, 4):
            text.write(json.dumps({"text": tokenizer.bos_token.join(joined[first : first + 4])}) + "\n")
        text.flush()
        began = time.time()
        scheme = AutoScheme(avg_bits=args.bits, options=options, nsamples=64, seqlen=256)
        chooser = AutoRound(model, tokenizer, scheme=scheme, iters=0, nsamples=64, seqlen=256, dataset=text.name, **common)
        _, layers = chooser.quantize()
    bits = {name: layers[name]["bits"] for name in linear}
    chosen = {name: {"bits": n, "group_size": args.group_size, "sym": False} for name, n in bits.items()}
    text_windows = windows(args.model, args.calibration, args.windows, args.length)
    rounder = AutoRound(
        load_float(args.model),
        tokenizer,
        scheme="W4A16",
        group_size=args.group_size,
        sym=False,
        layer_config=chosen,
        iters=args.iters,
        nsamples=args.windows,
        seqlen=args.length,
        dataset=text_windows,
        **common,
    )
    quantized, layers = rounder.quantize()
    assert all(layers[name]["bits"] == n for name, n in bits.items())
    seconds = time.time() - began
    whole = sum(n * (bits[name] + (16 + bits[name]) / args.group_size) for name, n in linear.items())
    result = {
        "model": args.model.name,
        "asked": args.bits,
        "bits_per_weight": round(whole / sum(linear.values()), 4),
        "group_size": args.group_size,
        "iters": args.iters,
        "seconds": round(seconds, 1),
        "bits": bits,
        **compare(base, quantized.float().eval(), stories),
    }
    print(json.dumps(result))
    done = json.loads(args.out.read_text()) if args.out.exists() else []
    args.out.write_text(json.dumps([*done, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
