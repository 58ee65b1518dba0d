"""Relative output errors of single layers under this program's peers, on real weights and inputs.

    python layers.py MODEL --calibration calibration.txt --write layers.safetensors      # makes the cases
    cargo run --release --example embed-solver -- layers.safetensors --bits 4 --group-size 128 --json ours.json
    python layers.py MODEL --read layers.safetensors --bits 4 --group-size 128 --ours ours.json --out results/layers.json

A case is a linear layer of MODEL with what it reads on the first windows of the text, 2048 tokens to solve for and 2048 to judge by. Each layer comes twice: as it is, and with one
input channel in a hundred twenty times as large, as large models have them. Peers: rounding to nearest, HQQ 0.2.8, llm-compressor 0.9.0 and GPTQModel 5.6.12 with each of the settings
of solver_time.py that are affine; all with groups along the inputs. The environment is that of README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from safetensors.torch import load_file, save_file

TOKENS = 2048
OUTLIERS = 20.0


@torch.inference_mode()
def write(folder: Path, text: Path, out: Path) -> None:
    from evaluate import load_float, split_stories, tokenize

    model = load_float(folder)
    ids = [i for story in tokenize(folder, split_stories(text), max_tokens=None) for i in story][: 2 * TOKENS]
    inputs: dict[str, list[torch.Tensor]] = {}
    linear = {name: m for name, m in model.named_modules() if name.endswith("_proj")}
    hooks = [
        m.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0].reshape(-1, args[0].shape[-1])))
        for name, m in linear.items()
    ]
    for window in torch.tensor(ids).view(-1, 256):
        model(window[None])
    for hook in hooks:
        hook.remove()
    tensors = {}
    generator = torch.Generator().manual_seed(0)
    last = max(int(name.split(".")[2]) for name in linear)
    for name, module in linear.items():
        # The first and the last block: layers in between are much alike.
        if int(name.split(".")[2]) not in (0, last):
            continue
        x = torch.cat(inputs[name]).float()
        for kind in ("", " with outliers"):
            if kind:
                x = x.clone()
                x[:, torch.randperm(x.shape[1], generator=generator)[: max(1, x.shape[1] // 100)]] *= OUTLIERS
            key = name.removeprefix("model.layers.") + kind
            tensors[f"{key}.weight"] = module.weight.data.float().clone()
            tensors[f"{key}.inputs"] = x[:TOKENS].clone()
            tensors[f"{key}.held_out"] = x[TOKENS:].clone()
    save_file(tensors, out)


def nearest(w: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    rows, width = w.shape
    g = w.view(rows, -1, min(group, width))
    low, high = g.amin(-1, keepdim=True).clamp(max=0), g.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).half().float().clamp(min=1e-7)
    zero = (-low / scale).round()
    return (((g / scale).round() + zero).clamp(0, 2**bits - 1) - zero).mul(scale).view(rows, width)


def hqq(w: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    from hqq.core.quantize import Quantizer

    codes, meta = Quantizer.quantize(w, nbits=bits, group_size=group, axis=1, device="cpu", compute_dtype=torch.float32, bitpack=False)
    meta["compute_dtype"] = torch.float32
    return Quantizer.dequantize(codes.float(), meta).reshape(w.shape)


def gptqmodel(w: torch.Tensor, x: torch.Tensor, bits: int, group: int, options: dict) -> torch.Tensor:
    from gptqmodel import QuantizeConfig
    from gptqmodel.looper.named_module import NamedModule
    from gptqmodel.quantization.gptq import GPTQ

    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = w.clone()
    config = QuantizeConfig(bits=bits, group_size=group, device="cpu", offload_to_disk=False, sym=False, **options)
    solver = GPTQ(NamedModule(layer, name="layer", full_name="layer", layer_index=0), config)
    solver.quantizer.configure(perchannel=True)
    for part in x.chunk(8):
        solver.add_batch(part, None)
    return solver.quantize()[0].float()


def llmcompressor(w: torch.Tensor, x: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    from compressed_tensors.quantization import QuantizationArgs, fake_quantize
    from llmcompressor.modifiers.quantization.calibration import initialize_observer
    from llmcompressor.modifiers.quantization.gptq.gptq_quantize import accumulate_hessian, make_empty_hessian, quantize_weight

    args = QuantizationArgs(num_bits=bits, group_size=group, strategy="group", symmetric=False, actorder="static", observer="minmax")
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = w.clone()
    from compressed_tensors.quantization import QuantizationScheme

    layer.quantization_scheme = QuantizationScheme(targets=["Linear"], weights=args)
    initialize_observer(layer, "weight")
    hessian, n = make_empty_hessian(layer), 0
    for part in x.chunk(8):
        hessian, n = accumulate_hessian(part[None], layer, hessian, n)
    _, q, scale, zero, index = quantize_weight(module=layer, quant_args=args, hessians_dict={layer: hessian}, blocksize=128, percdamp=0.01)
    return q.float()


SETTINGS = {
    "GPTQModel, act-order": {"desc_act": True, "act_group_aware": False},
    "GPTQModel, act-order, mse": {"desc_act": True, "act_group_aware": False, "mse": 2.4},
    "GPTQModel, group-aware, mse": {"desc_act": False, "act_group_aware": True, "mse": 2.4},
}


def read(args: argparse.Namespace) -> None:
    os.chdir(tempfile.mkdtemp())
    tensors = load_file(args.read)
    ours = {row["layer"]: row for row in json.loads(args.ours.read_text())} if args.ours else {}
    rows = []
    for name in sorted(key.removesuffix(".weight") for key in tensors if key.endswith(".weight")):
        w, x, held_out = (tensors[f"{name}.{part}"] for part in ("weight", "inputs", "held_out"))
        tools = {"rounding to nearest": lambda: nearest(w, args.bits, args.group_size), "HQQ": lambda: hqq(w, args.bits, args.group_size)}
        tools["llm-compressor"] = lambda: llmcompressor(w, x, args.bits, args.group_size)
        for setting, options in SETTINGS.items():
            tools[setting] = lambda options=options: gptqmodel(w, x, args.bits, args.group_size, options)
        row = {"layer": name, "bits": args.bits, "group_size": args.group_size}
        y = held_out.double() @ w.double().T
        for tool, quantize in tools.items():
            try:
                error = held_out.double() @ (quantize() - w).double().T
                row[tool] = (error.square().sum() / y.square().sum()).item()
            except Exception as error:  # a tool that stops is noted, not hidden
                row[tool] = f"{type(error).__name__}: {error}"[:160]
        if name in ours:
            row["fewbit"], row["worst row of rounding's"] = ours[name]["gptq"], ours[name]["worst_row"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    done = json.loads(args.out.read_text()) if args.out.exists() else []
    args.out.write_text(json.dumps([*done, *rows], indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/layers.json"))
    args = parser.parse_args()
    for key in ("read", "ours", "out", "write"):
        if getattr(args, key):
            setattr(args, key, getattr(args, key).resolve())
    write(args.model, args.calibration, args.write) if args.write else read(args)


if __name__ == "__main__":
    main()
