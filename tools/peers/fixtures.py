"""Small quantized checkpoints written by other tools themselves, for the tests of our readers.

    python fixtures.py OUT [--only NAME ...]

Each OUT/<name>/ holds config.json (and quantize_config.json), model.safetensors, and expected.safetensors: the f32
weights [out, in] of every quantized linear as the tool itself decodes its file (scale widened to f32 first). The
model is a one-layer random Llama: hidden 64, intermediate 96 (AWQ and bitsandbytes: 128), 4 heads on 2, vocabulary 64. OUT/README.md
says what each one is for.
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
from types import SimpleNamespace

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
GROUP_32 = {"strategy": "group", "group_size": 32}
FP8 = {"type": "float", "num_bits": 8}
FP4 = {"type": "float", "num_bits": 4}
TOKEN = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
PACK = "pack-quantized"
COMPRESSED: dict[str, tuple[str, dict, torch.dtype]] = {
    "ct-int4-sym-g32": (PACK, {"num_bits": 4, "symmetric": True, **GROUP_32}, torch.float16),
    "ct-int4-affine-g32": (PACK, {"num_bits": 4, "symmetric": False, **GROUP_32}, torch.bfloat16),
    "ct-int8-channel": (PACK, {"num_bits": 8, "symmetric": True, "strategy": "channel"}, torch.float16),
    "ct-int3-sym-g32": (PACK, {"num_bits": 3, "symmetric": True, **GROUP_32}, torch.float32),
    "ct-bytes-int8-w8a8": ("int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}, torch.bfloat16),
    "ct-bytes-int4-affine-g32": ("int-quantized", {"num_bits": 4, "symmetric": False, **GROUP_32}, torch.float16),
    "ct-naive-int8-tensor": ("naive-quantized", {"num_bits": 8, "symmetric": True, "strategy": "tensor"}, torch.float32),
    "ct-fp8-tensor": ("float-quantized", {**FP8, "strategy": "tensor"}, torch.bfloat16),
    "ct-fp8-channel": ("float-quantized", {**FP8, "strategy": "channel"}, torch.float16),
    "ct-fp8-block": ("float-quantized", {**FP8, "strategy": "block", "block_structure": [16, 32]}, torch.float32),
    "ct-nvfp4": (
        "nvfp4-pack-quantized",
        {**FP4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": torch.float8_e4m3fn, "zp_dtype": torch.float8_e4m3fn},
        torch.bfloat16,
    ),
    "ct-mxfp4": (
        "mxfp4-pack-quantized",
        {**FP4, **GROUP_32, "scale_dtype": torch.uint8, "zp_dtype": torch.uint8},
        torch.bfloat16,
    ),
}  # fmt: skip
AWQ: dict[str, int] = {"awq-gemm": 32, "awq-gemm-channel": -1, "awq-gemv": 32, "awq-gemv-fast": 64}
BNB: dict[str, tuple[dict, torch.dtype]] = {
    "bnb-nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, torch.bfloat16),
    "bnb-nf4-double": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        torch.float16,
    ),
    "bnb-fp4-double": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
        torch.float32,
    ),
    "bnb-nf4-stored-bf16": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": torch.bfloat16},
        torch.bfloat16,
    ),
    "bnb-int8": ({"load_in_8bit": True}, torch.float16),
}  # fmt: skip
NAMES = [*GPTQ, *COMPRESSED, *AWQ, *BNB]


def source(name: str, folder: Path, dtype: torch.dtype) -> None:
    """A random float model; for the borrow case some groups hold positive weights only, so that their zero is 0."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128 if name in AWQ or name in BNB else 96, num_hidden_layers=1, num_attention_heads=4,
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


def write_compressed(name: str, model_dir: Path, out: Path) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    form, args, dtype = COMPRESSED[name]
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=dtype)
    group = {"targets": ["Linear"], "weights": {"type": "int", **args}}
    if "w8a8" in name:
        group["input_activations"] = TOKEN
    oneshot(model=model, recipe=QuantizationModifier(config_groups={"group_0": group}, ignore=["lm_head"]))
    model.save_pretrained(out, save_compressed=True, quantization_format=form)


def write_bitsandbytes(options: dict, model_dir: Path, out: Path, dtype: torch.dtype) -> None:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**options)
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=dtype, device_map="cpu", quantization_config=config)
    model.save_pretrained(out)


def write_awq(name: str, model_dir: Path, out: Path) -> dict[str, torch.Tensor]:
    """AutoAWQ's plain rounding and packing of each linear. Its decoder knows the layout "gemm" alone, so what the others
    are expected to hold is what that one holds of the same linear."""
    import transformers.activations

    transformers.activations.PytorchGELUTanh = transformers.activations.GELUTanh  # AutoAWQ imports the old name
    from awq.models._config import AwqConfig
    from awq.modules.linear import gemm, gemv, gemv_fast
    from awq.quantize.quantizer import AwqQuantizer
    from awq.utils.packing_utils import dequantize_gemm

    gemm.get_best_device = lambda: "cpu"
    group_size, version = AWQ[name], name.removeprefix("awq-").removesuffix("-channel").replace("-", "_")
    packer = {"gemm": gemm.WQLinear_GEMM, "gemv": gemv.WQLinear_GEMV, "gemv_fast": gemv_fast.WQLinear_GEMVFast}[version]
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float16)
    state, expected = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}, {}
    for module_name, linear in model.named_modules():
        if not isinstance(linear, torch.nn.Linear) or module_name == "lm_head":
            continue
        size = group_size if group_size > 0 else linear.in_features
        settings = SimpleNamespace(w_bit=4, group_size=size, zero_point=True)
        linear.weight.data, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, linear.weight.data)
        per_input = (scales.t().contiguous(), zeros.t().contiguous())
        reference = gemm.WQLinear_GEMM.from_linear(linear, 4, size, False, *per_input)
        parts = (reference.qweight, reference.qzeros, reference.scales.float())
        expected[module_name] = dequantize_gemm(*parts, 4, size).t().contiguous()
        packed = packer.from_linear(linear, 4, size, False, *(per_input if version == "gemm" else (scales, zeros)))
        state.pop(module_name + ".weight")
        state |= {f"{module_name}.{k}": v.contiguous() for k, v in packed.state_dict().items()}
    out.mkdir()
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model_dir / "config.json").read_text())
    config["quantization_config"] = AwqConfig(q_group_size=group_size, version=version).to_transformers_dict()
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    args = parser.parse_args()
    out = args.out.resolve()
    if len(args.only) > 1:  # one process each: the tools patch transformers for the rest of theirs
        for name in args.only:
            subprocess.run([sys.executable, __file__, str(out), "--only", name], check=True)
        return
    work = Path(tempfile.mkdtemp())
    os.chdir(work)
    for name in args.only:
        dtype = {**COMPRESSED, **BNB}.get(name, (torch.float16,))[-1]
        source(name, work / "source", dtype)
        made = work / name
        expected = None
        if name in GPTQ:
            write_gptq(GPTQ[name], work / "source", made)
        elif name in COMPRESSED:
            write_compressed(name, work / "source", made)
        elif name in BNB:
            write_bitsandbytes(BNB[name][0], work / "source", made, dtype)
        else:
            expected = write_awq(name, work / "source", made)
        difference = None
        if expected is None or "gemm" in name:
            weights, report = check(made, None, None)
            assert report["ok"], report
            assert expected is None or all(torch.equal(expected[k], w) for k, w in weights.items()), name
            difference = report["tool_logits_max_difference"]
        else:
            weights = expected
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
        print(f"{name:34} {size:6.1f} KiB  tool's logits differ by {difference}", flush=True)


if __name__ == "__main__":
    main()
