"""Quantizes one float model with GPTQModel on the CPU, and with plain rounding, and evaluates every result.

    python gptqmodel_run.py MODEL --calibration calibration.txt --validation validation.txt --out results \
        --bits 4 3 2 --group-size 32 128 [--settings NAME ...] [--keep FOLDER] [--limit N]

One JSON per model, bits and group size: OUT/<model>-w<bits>g<group>.json, a list with one object per setting.
Settings found there already are skipped, so that a run can be continued. ``--keep`` also stores the dequantized
weights of each run as FOLDER/<model>-w<bits>g<group>-<setting>.safetensors.

Calibration: the stories in order, each after BOS, joined and cut into windows of 384 tokens, the first 128
windows. Evaluation: evaluate.py. Weights are decoded from GPTQModel's packed tensors as scale * (code - zero)
in f32 with the stored f16 scale. ``bpw`` counts qweight, qzeros and scales, and g_idx where it is not i / group.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no idle compiler processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file

from evaluate import all_logits, bos_of, compare, load_float, split_stories, tokenize

torch._dynamo.config.disable = True  # GPTAQ compiles a function below torch 2.8, which fails on this CPU path

MSE = {"mse": 2.4}
AFFINE = {"sym": False}
ORDER = {"desc_act": True, "act_group_aware": False}
PLAIN = {"desc_act": False, "act_group_aware": False}
SETTINGS: dict[str, dict] = {
    "default": {},  # symmetric, group-aware act-order, no range search, damping 0.05
    "actorder-affine-mse": ORDER | AFFINE | MSE,
    "actorder-affine-mse-gptaq": ORDER | AFFINE | MSE | {"gptaq": True},
    "actorder-affine-mse-gptaq-damp01": ORDER | AFFINE | MSE | {"gptaq": True, "damp_percent": 0.01},
    "actorder-affine-mse-damp01": ORDER | AFFINE | MSE | {"damp_percent": 0.01},
    "gar-affine-mse": AFFINE | MSE,
    "gar-affine-mse-gptaq": AFFINE | MSE | {"gptaq": True},
    "static-actorder-affine-mse": ORDER | AFFINE | MSE | {"static_groups": True},
    "static-actorder-affine-mse-gptaq": ORDER | AFFINE | MSE | {"static_groups": True, "gptaq": True},
    "plain-sym-mse": PLAIN | MSE,
    "plain-sym-mse-gptaq": PLAIN | MSE | {"gptaq": True},
    "plain-affine-mse": PLAIN | AFFINE | MSE,
    "actorder-sym-mse": ORDER | MSE,
    "actorder-affine": ORDER | AFFINE,
}
ROUNDING = {"rtn-sym": True, "rtn-affine": False}


def calibration_windows(folder: Path, text: Path, count: int = 128, length: int = 384) -> list[list[int]]:
    ids: list[int] = []
    for story in tokenize(folder, split_stories(text), max_tokens=None):
        ids += story
        if len(ids) >= count * length:
            break
    windows = [ids[i * length : (i + 1) * length] for i in range(count)]
    assert len(windows[-1]) == length, "too little calibration text"
    return windows


def round_to_nearest(w: torch.Tensor, bits: int, group: int, sym: bool) -> torch.Tensor:
    """GPTQ's grid: symmetric scale 2 absmax / (2^b - 1) and zero 2^(b-1), affine scale (max - min) / (2^b - 1).

    The scale is rounded to f16 before codes are chosen.
    """
    top = 2**bits - 1
    x = w.reshape(w.shape[0], -1, group)
    if sym:
        scale = 2 * x.abs().amax(-1, keepdim=True) / top
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        scale = (high - low) / top
        zero = torch.round(-low / torch.where(scale == 0, 1, scale))
    scale = scale.half().float()
    safe = torch.where(scale == 0, 1, scale)
    code = (torch.round(x / safe) + zero).clamp(0, top)
    return (scale * (code - zero)).reshape(w.shape)


def dequantize(module: torch.nn.Module) -> torch.Tensor:
    """[out, in] f32 from GPTQModel's packed module: its own unpacking, scales widened from f16."""
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear

    if not hasattr(module, "wf_unsqueeze_zero"):
        PackableQuantLinear.post_init(module)  # the unpacking shifts, without the compilation of its subclass
    stored = module.scales
    assert stored.dtype == torch.float16
    module.scales = stored.float()
    weight = PackableQuantLinear.dequantize_weight(module).t().contiguous()
    module.scales = stored
    return weight


def quantize(folder: Path, windows: list[list[int]], bits: int, group: int, settings: dict) -> tuple[dict, float, float]:
    """Dequantized weights by module name, bits per weight, CPU seconds."""
    from gptqmodel import GPTQModel, QuantizeConfig
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    # Format v2: the step to v1 garbles 3-bit zero points (README.md). Codes and scales are the same.
    config = QuantizeConfig(
        format="gptq_v2", bits=bits, group_size=group, device="cpu", offload_to_disk=False, **settings
    )
    model = GPTQModel.load(str(folder), config, dtype=torch.float32)
    start, clock = time.process_time(), time.time()
    model.quantize([{"input_ids": w, "attention_mask": [1] * len(w)} for w in windows], batch_size=1)
    seconds = time.process_time() - start
    print(f"quantized in {time.time() - clock:.1f} s on the clock, {seconds:.1f} s of CPU time", flush=True)
    weights, stored, count = {}, 0, 0
    for name, module in model.model.named_modules():
        if isinstance(module, BaseQuantLinear):
            weights[name] = dequantize(module)
            for tensor in (module.qweight, module.qzeros, module.scales):
                stored += tensor.numel() * tensor.element_size() * 8
            plain = torch.arange(module.in_features) // group
            if not torch.equal(module.g_idx.long().cpu(), plain):
                stored += module.g_idx.numel() * 32
            count += weights[name].numel()
    return weights, stored / count, seconds


def score(base: list, model: torch.nn.Module, stories: list, screen: int | None, rows: list[dict]) -> dict:
    """The whole text, or its first ``screen`` stories where these show that another setting is clearly better."""
    if not screen:
        return compare(base, model, stories)
    first = compare(base[:screen], model, stories[:screen])
    best = min((r["screen_kld"] for r in rows if "screen_kld" in r), default=float("inf"))
    scores = first | {"limit": screen} if first["kld"] > 1.1 * best else compare(base, model, stories)
    return scores | {"screen_kld": first["kld"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--group-size", type=int, nargs="+", default=[128])
    parser.add_argument("--settings", nargs="+", choices=[*ROUNDING, *SETTINGS], default=[*ROUNDING, *SETTINGS])
    parser.add_argument("--limit", type=int, help="evaluate on the first N stories only")
    parser.add_argument("--screen", type=int, help="losers are evaluated on the first N stories only")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()

    args.model, args.out = args.model.resolve(), args.out.resolve()
    args.calibration, args.validation = args.calibration.resolve(), args.validation.resolve()
    args.keep = args.keep and args.keep.resolve()
    os.chdir(tempfile.mkdtemp())  # GPTQModel writes log files into the current folder
    name = args.model.name
    model = load_float(args.model)
    stories = tokenize(args.model, split_stories(args.validation)[: args.limit])
    windows = calibration_windows(args.model, args.calibration)
    linears = {k: m for k, m in model.named_modules() if isinstance(m, torch.nn.Linear) and k != "lm_head"}
    original = {k: m.weight.detach().clone() for k, m in linears.items()}
    base = all_logits(model, stories)
    args.out.mkdir(parents=True, exist_ok=True)

    for setting in args.settings:
        for bits in args.bits:
            for group in args.group_size:
                path = args.out / f"{name}-w{bits}g{group}.json"
                rows = json.loads(path.read_text()) if path.exists() else []
                if any(r["method"] == setting and "error" not in r for r in rows):
                    continue
                start = time.time()
                try:
                    if setting in ROUNDING:
                        options = {"sym": ROUNDING[setting]}
                        weights = {k: round_to_nearest(w, bits, group, options["sym"]) for k, w in original.items()}
                        bpw, seconds = bits + (16 + bits) / group, 0.0
                    else:
                        options = SETTINGS[setting]
                        weights, bpw, seconds = quantize(args.model, windows, bits, group, options)
                    assert weights.keys() == original.keys()
                    with torch.no_grad():
                        for k, w in weights.items():
                            linears[k].weight.copy_(w)
                    scores = score(base, model, stories, args.screen, rows)
                except Exception as error:  # a peer that fails is a result too
                    scores, bpw, seconds = {"error": f"{type(error).__name__}: {error}"[:300]}, None, 0.0
                row = {
                    "model": name, "tool": "rtn" if setting in ROUNDING else "gptqmodel 5.6.12", "method": setting,
                    "settings": options, "bits": bits, "group_size": group, "bpw": bpw, "limit": args.limit,
                    **scores, "cpu_seconds": round(seconds, 2),
                }  # fmt: skip
                rows = json.loads(path.read_text()) if path.exists() else []
                rows = sorted([r for r in rows if r["method"] != setting] + [row], key=lambda r: r.get("kld", 9e9))
                path.write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]\n")
                if args.keep and "error" not in scores:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    save_file(
                        {k + ".weight": w.contiguous() for k, w in weights.items()},
                        args.keep / f"{path.stem}-{setting}.safetensors",
                    )
                shown = scores.get("error") or f"ppl {scores['ppl']:.4f}  kld {scores['kld']:.5f} ± {scores['kld_se']:.5f}"
                print(f"{path.stem:28} {setting:34} {shown}  {seconds:.1f} s ({time.time() - start:.1f} in all)", flush=True)


if __name__ == "__main__":
    main()
