"""Quantizes the comparison models with AutoAWQ on a CPU, evaluates, writes results/autoawq-*.json (finished cells are not done again).

    python autoawq_run.py MODEL --calibration calibration.txt --validation validation.txt --out results [--bits 4 3 2] [--group-size 128 32]

The protocol is that of gptqmodel_run.py: 128 calibration windows of 384 tokens, every validation story on its own after BOS, cut to 512 tokens.

What AutoAWQ 0.2.9 needs on a CPU is set here, and nothing else of it is changed:
- transformers has renamed `PytorchGELUTanh`; the old name is put back.
- its weights are saved with `v.cpu()` before each candidate scales them in place, which on a CPU copies nothing: the search then compounds its own
  candidates. They are copied (`AWQ_FIX = 0` shows what happens without).
- `get_best_device` must say "cpu".
- it takes 4 bits alone, because its packed layers do; scale search, clipping and rounding are general. Other widths run with `export_compatible`, which
  stops before the packing, and are then rounded by its own `pseudo_quantize_tensor`. Scales are rounded to f16 as its layers store them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import transformers
from evaluate import all_logits, compare, load_float, split_stories, tokenize
from gptqmodel_run import calibration_windows

transformers.activations.PytorchGELUTanh = getattr(
    transformers.activations, "PytorchGELUTanh", transformers.activations.GELUTanh
)
import awq.quantize.quantizer as quantizer  # noqa: E402
from awq.models.llama import LlamaAWQForCausalLM  # noqa: E402

SETTINGS = {"default": {}, "no-duo": {"duo_scaling": False}, "no-clip": {"apply_clip": False}}


class Search(quantizer.AwqQuantizer):
    """AutoAWQ's own, on tokens that are given, with the weights really saved."""

    windows: list[list[int]]

    def init_quant(self, n_samples=128, max_seq_len=512):
        samples = [torch.tensor([w]) for w in self.windows]
        original = quantizer.get_calib_dataset
        quantizer.get_calib_dataset = lambda **_: samples
        try:
            return super().init_quant(n_samples, max_seq_len)
        finally:
            quantizer.get_calib_dataset = original

    def _compute_best_scale(self, x, w_mean, x_mean, module2inspect, linears2scale, fp16_output, kwargs={}):
        if os.environ.get("AWQ_FIX") != "0":
            state_dict = module2inspect.state_dict

            def copied(*args, **kw):
                return {k: v.clone() for k, v in state_dict(*args, **kw).items()}

            module2inspect.state_dict = copied
            try:
                return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, linears2scale, fp16_output, kwargs)
            finally:
                del module2inspect.state_dict
        return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, linears2scale, fp16_output, kwargs)


def rounded(search: Search, weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Its rounding, with scales as they are stored (f16)."""
    _, scales, zeros = search.pseudo_quantize_tensor(weight)
    scales = scales.half().float().repeat_interleave(group, 1)
    zeros = zeros.repeat_interleave(group, 1)
    return ((weight / scales).round() + zeros).clamp(0, 2**bits - 1).sub(zeros).mul(scales)


def quantize(folder: Path, windows: list, bits: int, group: int, options: dict) -> tuple[torch.nn.Module, float]:
    model = load_float(folder)
    model.config.use_cache = False  # else its forward passes of a block add up in one cache
    wrapped = LlamaAWQForCausalLM(model, "llama", False, model.config, None, None)
    quantizer.get_best_device = lambda: "cpu"
    Search.windows = windows
    start, clock = time.process_time(), time.time()
    settings = {"duo_scaling": True, "apply_clip": True} | options
    search = Search(
        wrapped, model, None, bits, group, True, "gemm", None, None, None,
        modules_to_not_convert=None, export_compatible=True, n_parallel_calib_samples=None,
        max_calib_samples=len(windows), max_calib_seq_len=512, **settings,
    )  # fmt: skip
    search.quantize()
    with torch.no_grad():
        for block in model.model.layers:
            for module in block.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.copy_(rounded(search, module.weight, bits, group))
    seconds = time.process_time() - start
    print(f"quantized in {time.time() - clock:.1f} s on the clock, {seconds:.1f} s of CPU time", flush=True)
    return model, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--group-size", type=int, nargs="+", default=[128, 32])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["default"])
    parser.add_argument("--limit", type=int, help="evaluate on the first N stories only")
    args = parser.parse_args()
    name = args.model.resolve().name
    stories = tokenize(args.model, split_stories(args.validation)[: args.limit])
    windows = calibration_windows(args.model, args.calibration)
    base = all_logits(load_float(args.model), stories)
    for group in args.group_size:
        for bits in args.bits:
            for setting in args.settings:
                path = args.out / f"autoawq-{name}-w{bits}g{group}.json"
                rows = json.loads(path.read_text()) if path.exists() else []
                if any(r["method"] == setting and "error" not in r for r in rows):
                    continue
                try:
                    model, seconds = quantize(args.model, windows, bits, group, SETTINGS[setting])
                    scores = compare(base, model, stories)
                except Exception as error:  # a peer that fails is a result too
                    scores, seconds = {"error": f"{type(error).__name__}: {error}"[:300]}, 0.0
                row = {
                    "model": name, "tool": "autoawq 0.2.9", "method": setting, "settings": SETTINGS[setting], "bits": bits, "group_size": group,
                    "bpw": bits + (16 + bits) / group, "limit": args.limit, **scores, "cpu_seconds": round(seconds, 2),
                }  # fmt: skip
                rows = sorted([r for r in rows if r["method"] != setting] + [row], key=lambda r: r.get("kld", 9e9))
                path.write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]\n")
                shown = scores.get("error") or f"ppl {scores['ppl']:.4f}  kld {scores['kld']:.5f} ± {scores['kld_se']:.5f}"
                print(f"{path.stem:36} {setting:10} {shown}  {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
