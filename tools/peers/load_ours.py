"""Reads a quantized checkpoint folder with the reader code of other tools and checks what they make of it.

    python load_ours.py DIR [--expect FLOAT_DIR] [--logits FILE] [--dump FILE] [--quiet]
    python load_ours.py DIR... --reports OUT

DIR holds a GPTQ (v1 or v2), AWQ, compressed-tensors or bitsandbytes checkpoint. Every quantized linear is decoded by

* GPTQ: GPTQModel's loader (which turns v1 zero points into v2) and its torch kernel's ``dequantize_weight``; the same
  after transformers' loader;
* AWQ: GPTQModel's loader and decoder, and AutoAWQ's decoder (transformers and AutoAWQ load it on a CPU only with IPEX);
* compressed-tensors: the decompressor of the compressed-tensors library, and transformers' loader; for MXFP4 and NVFP4,
  where both stop (0.13, torch 2.6), its functions that unpack and multiply;
* bitsandbytes: transformers' loader and bitsandbytes' decoder.

The stored scales are widened to f32 before the tool multiplies, so that the result is exact: scale * (code - zero).
It is checked that the tool's own result in the stored type is this, rounded.

--expect FLOAT_DIR  a folder whose safetensors hold f32 ``<module>.weight`` as we decoded it: compared bit for bit,
                    and so is every unquantized tensor (widened to f32) that FLOAT_DIR holds too
--logits FILE       safetensors with ``tokens`` I32 [T] and ``logits`` F32 [T, V] of our runtime: compared with a
                    forward pass of transformers in f32 on the decoded weights
--dump FILE         writes the decoded weights (f32)
--reports OUT       checks several folders and writes each object to OUT/<name of the folder>.json

Prints a JSON object: per module shape and CRC-32 of its f32 bytes, and the outcome of each check. Exit status 1 if
a check fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no idle compiler processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

torch._dynamo.config.disable = True  # GPTQModel compiles its decoding, which needs a compiler and minutes

Weights = dict[str, torch.Tensor]


def tensors_of(folder: Path) -> Weights:
    tensors: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name not in ("golden.safetensors", "expected.safetensors"):
            tensors |= load_file(file)
    return tensors


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal as f32 bit patterns, but for the sign of zero, which no format stores."""
    return a.shape == b.shape and torch.equal((a.float() + 0.0).view(torch.int32), (b.float() + 0.0).view(torch.int32))


def dummy_tokenizer(folder: Path, vocab: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t0"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="t1", eos_token="t2", unk_token="t0", pad_token="t0"
    ).save_pretrained(folder)


def read_gptq(folder: Path) -> tuple[Weights, dict]:
    from gptqmodel import BACKEND, GPTQModel

    if not (folder / "tokenizer.json").exists():  # its loader insists on one
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        dummy_tokenizer(copy, json.loads((folder / "config.json").read_text())["vocab_size"])
        folder = copy
    # The torch kernel takes 16-bit floats only; what it multiplies in is settled below.
    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    weights, rounded = decode_gptq(model.model)
    through = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float16)
    again, _ = decode_gptq(through)
    same = again.keys() == weights.keys() and all(same_bits(again[k], w) for k, w in weights.items())
    probe = torch.arange(1, 17) % model.config.vocab_size
    with torch.inference_mode():
        logits = model.model(input_ids=probe[None], use_cache=False).logits[0].float()
    return weights, {
        "tool": "gptqmodel", "native_is_rounded": rounded, "transformers_agrees": same, "probe": (probe, logits),
    }  # fmt: skip


def decode_gptq(model: torch.nn.Module) -> tuple[Weights, bool]:
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear, PackableQuantLinear

    weights, rounded = {}, True
    for name, module in model.named_modules():
        if not isinstance(module, BaseQuantLinear):
            continue
        if not hasattr(module, "wf_unsqueeze_zero"):
            PackableQuantLinear.post_init(module)
        stored = module.scales
        native = PackableQuantLinear.dequantize_weight(module).t()
        module.scales = stored.float()
        weights[name] = PackableQuantLinear.dequantize_weight(module).t().contiguous()
        module.scales = stored
        rounded &= same_bits(native, weights[name].to(stored.dtype))
    return weights, rounded


def read_compressed_tensors(folder: Path) -> tuple[Weights, dict]:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from transformers import CompressedTensorsConfig

    section = json.loads((folder / "config.json").read_text())["quantization_config"]
    QuantizationConfig.model_validate(section)  # refuses unknown keys
    compressor = ModelCompressor.from_pretrained(str(folder))
    packers = compressor.quantization_compressor
    # transformers decides which modules a target names; the library's decompressor decodes them.
    info: dict = {"tool": "compressed-tensors"}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", attn_implementation="eager", quantization_config=CompressedTensorsConfig(run_compressed=False)
        ).eval()
    except (NotImplementedError, RuntimeError) as error:
        info["transformers_refuses"] = str(error)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        apply_quantization_config(model, compressor.quantization_config)
    tensors = tensors_of(folder)
    weights, rounded = {}, True
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or name + ".weight_scale" not in tensors:
            continue
        form = scheme.format or section["format"]
        packer = packers[getattr(form, "value", form)] if isinstance(packers, dict) else packers
        parts = {k: tensors.get(f"{name}.{k}") for k in packer.compression_param_names}
        parts = {k: v for k, v in parts.items() if v is not None}
        if name + ".weight_shape" in tensors:
            parts["weight_shape"] = tensors[name + ".weight_shape"]
        if scheme.weights.num_bits == 4 and scheme.weights.type == "float":
            weights[name] = decode_float4(parts, scheme.weights)
            continue
        native = packer.decompress_weight(compressed_data=dict(parts), quantization_args=scheme.weights)
        parts["weight_scale"] = parts["weight_scale"].float()
        weights[name] = packer.decompress_weight(compressed_data=parts, quantization_args=scheme.weights).float()
        rounded &= same_bits(native, weights[name].to(native.dtype))
        rounded &= same_bits(module.weight.detach(), native)
    missed = {k.removesuffix(".weight_scale") for k in tensors if k.endswith(".weight_scale")} - weights.keys()
    assert not missed, f"no target of the config names {sorted(missed)}"
    info["native_is_rounded"] = rounded
    if "transformers_refuses" in info:
        return weights, info
    # Its forward pass would round the decoded weights once more, and with packed zero points it fails (0.13).
    for module in model.modules():
        module.quantization_enabled = False
    probe = torch.arange(1, 17) % model.config.vocab_size
    with torch.inference_mode():
        logits = model(input_ids=probe[None], use_cache=False).logits[0].float()
    return weights, info | {"probe": (probe, logits)}


def decode_float4(parts: Weights, args) -> torch.Tensor:
    """MXFP4 and NVFP4 by the library's own steps, in f32."""
    from compressed_tensors.compressors.quantized_compressors.fp4_quantized import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    packed, scale = parts["weight_packed"], parts["weight_scale"]
    codes = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
    scale = 2.0 ** (scale.float() - 127) if scale.dtype == torch.uint8 else scale.float()
    return dequantize(x_q=codes, scale=scale, args=args, global_scale=parts.get("weight_global_scale"))


def read_awq(folder: Path) -> tuple[Weights, dict]:
    import transformers.activations

    transformers.activations.PytorchGELUTanh = transformers.activations.GELUTanh  # AutoAWQ imports the old name
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils import packing_utils
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchQuantLinear, dequantize_gemm

    if not (folder / "tokenizer.json").exists():  # its loader insists on one
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        dummy_tokenizer(copy, json.loads((folder / "config.json").read_text())["vocab_size"])
        folder = copy
    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH_AWQ, dtype=torch.float16)
    tensors = tensors_of(folder)
    weights, rounded, agrees = {}, True, True
    for name, module in model.model.named_modules():
        if not isinstance(module, AwqTorchQuantLinear):
            continue
        size = module.group_size if module.group_size > 0 else module.in_features
        parts = (module.qweight, module.qzeros)
        native = dequantize_gemm(*parts, module.scales, 4, size)
        weights[name] = dequantize_gemm(*parts, module.scales.float(), 4, size).t().contiguous()
        rounded &= same_bits(native.t(), weights[name].half())
        other = WQLinear_GEMM(4, size, module.in_features, module.out_features, False, "cpu")
        other.load_state_dict({k: tensors[f"{name}.{k}"] for k in ("qweight", "qzeros", "scales")})
        again = packing_utils.dequantize_gemm(other.qweight, other.qzeros, other.scales.float(), 4, size)
        agrees &= same_bits(again.t(), weights[name])
    probe = torch.arange(1, 17) % model.config.vocab_size
    with torch.inference_mode():
        logits = model.model(input_ids=probe[None], use_cache=False).logits[0].float()
    return weights, {"tool": "gptqmodel", "native_is_rounded": rounded, "autoawq_agrees": agrees, "probe": (probe, logits)}


def read_bitsandbytes(folder: Path) -> tuple[Weights, dict]:
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype="auto", attn_implementation="eager").eval()
    weights, rounded = {}, True
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            native = dequantize_4bit(module.weight.data, state)
            state.dtype, stored = torch.float32, state.dtype
            weights[name] = dequantize_4bit(module.weight.data, state)
            state.dtype = stored
            rounded &= same_bits(native, weights[name].to(stored))
        elif isinstance(module, bnb.nn.Linear8bitLt):
            scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            weights[name] = int8_vectorwise_dequant(module.weight.data, scales)
    probe = torch.arange(1, 17) % model.config.vocab_size
    with torch.inference_mode():
        logits = model(input_ids=probe[None], use_cache=False).logits[0].float()
    return weights, {"tool": "bitsandbytes", "native_is_rounded": rounded, "probe": (probe, logits)}


READERS = {
    "gptq": read_gptq,
    "awq": read_awq,
    "compressed-tensors": read_compressed_tensors,
    "bitsandbytes": read_bitsandbytes,
}


def read(folder: Path) -> tuple[Weights, dict]:
    section = json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    if section.get("quant_method") not in READERS:
        sys.exit(f"{folder}: quant_method is {section.get('quant_method')!r}, not one of {sorted(READERS)}")
    return READERS[section["quant_method"]](folder)


def float_model(folder: Path, weights: Weights) -> torch.nn.Module:
    """transformers' model in f32 with the decoded weights in place of the quantized linears."""
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    state = model.state_dict()
    tensors = tensors_of(folder)
    plain = {k: v.float() for k, v in tensors.items() if k in state}
    plain |= {k + ".weight": v for k, v in weights.items()}
    if config.tie_word_embeddings:
        plain.setdefault("lm_head.weight", plain.get("model.embed_tokens.weight"))
        plain.setdefault("model.embed_tokens.weight", plain["lm_head.weight"])
    model.load_state_dict(plain, strict=True)
    return model


@torch.inference_mode()
def check(folder: Path, expect: Path | None, logits: Path | None) -> tuple[Weights, dict]:
    weights, info = read(folder)
    probe, native_logits = info.pop("probe", (torch.arange(1, 17), None))
    model = float_model(folder, weights)
    ours = model(input_ids=probe[None], use_cache=False).logits[0]
    report = {
        "folder": folder.name,
        **info,
        "modules": {
            k: {"shape": list(w.shape), "crc32": f"{zlib.crc32((w + 0.0).numpy().tobytes()):08x}"}
            for k, w in sorted(weights.items())
        },
        # The tool's own forward pass (16 bit) against f32 on the decoded weights: says only that they are alike.
        "tool_logits_max_difference": None if native_logits is None else (ours - native_logits).abs().max().item(),
        "logits_std": ours.std().item(),
    }
    ok = bool(weights) and all(report.get(k, True) for k in ("native_is_rounded", "transformers_agrees", "autoawq_agrees"))
    if expect is not None:
        expected = tensors_of(expect)
        tensors = tensors_of(folder)
        different, missing = [], []
        for name, w in weights.items():
            if name + ".weight" not in expected:
                missing.append(name)
            elif not same_bits(expected[name + ".weight"], w):
                bad = (expected[name + ".weight"].float() != w).sum().item() if expected[name + ".weight"].shape == w.shape else -1
                different.append({"module": name, "elements": bad})
        plain = [k for k in expected if k in tensors and k.removesuffix(".weight") not in weights]
        different += [{"tensor": k} for k in plain if not same_bits(expected[k], tensors[k].float())]
        report["expect"] = {
            "equal": not different and not missing, "modules": len(weights), "plain_tensors": len(plain),
            "different": different, "missing": missing,
        }  # fmt: skip
        ok &= report["expect"]["equal"]
    if logits is not None:
        golden = load_file(logits)
        theirs = model(input_ids=golden["tokens"].long()[None], use_cache=False).logits[0]
        difference = (theirs - golden["logits"]).abs().max().item()
        report["logits"] = {"max_difference": difference, "equal": difference < 1e-3 * max(1.0, theirs.abs().max().item())}
        ok &= report["logits"]["equal"]
    report["ok"] = ok
    return weights, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--expect", type=Path)
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--dump", type=Path)
    parser.add_argument("--quiet", action="store_true", help="no list of modules")
    parser.add_argument("--reports", type=Path)
    args = parser.parse_args()
    folder, *more = (folder.resolve() for folder in args.folders)
    if more and not args.reports:
        parser.error("several folders need --reports")
    reports = args.reports and args.reports.resolve()
    expect, logits, dump = (p and p.resolve() for p in (args.expect, args.logits, args.dump))
    out = os.dup(1)
    os.dup2(2, 1)  # the tools print to stdout
    logging.disable(logging.INFO)
    os.chdir(tempfile.mkdtemp())  # and write log files where they stand
    if reports:
        results = {f.name: check(f, None, None)[1] for f in (folder, *more)}
        for name, report in results.items():
            (reports / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        sys.exit(0 if all(report["ok"] for report in results.values()) else 1)
    weights, report = check(folder, expect, logits)
    if dump:
        save_file({k + ".weight": w for k, w in weights.items()}, dump)
    if args.quiet:
        report["modules"] = len(report["modules"])
    os.write(out, (json.dumps(report, indent=1) + "\n").encode())
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
