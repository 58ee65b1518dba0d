"""Loads a static W8A8 folder of ours with transformers and compressed-tensors, and compares what they make of it.

    python static_inputs.py DIR FLOAT_DIR --text validation.txt [--limit 32]

Every quantized linear must have got our `input_scale`, as a step that is fixed; its inputs in a forward pass must be rounded to whole numbers of it in -128..127. Prints
the KL divergence of the loaded model from FLOAT_DIR on the stories of the text, to be compared with what `qat --inputs int8-static` or
`quantize --container w8a8-static` says of the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from evaluate import all_logits, compare, load_float, split_stories, tokenize


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("float_folder", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=32)
    args = parser.parse_args()
    ours = load_file(args.folder / "model.safetensors")
    config = CompressedTensorsConfig(run_compressed=True)
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32, attn_implementation="eager", quantization_config=config).eval()
    modules = {name: m for name, m in model.named_modules() if hasattr(m, "quantization_scheme")}
    assert modules, "nothing is quantized"
    for name, module in modules.items():
        inputs = module.quantization_scheme.input_activations
        assert inputs.num_bits == 8 and not inputs.dynamic and inputs.strategy == "tensor", (name, inputs)
        step = module.input_scale
        assert torch.equal(step.float().flatten(), ours[f"{name}.input_scale"].float().flatten()), name
        x = torch.randn(4, module.in_features) * 100 * step.float()
        rounded = fake_quantize(x, step, torch.zeros_like(step), inputs)
        expected = (x / step).round().clamp(-128, 127) * step
        assert torch.equal(rounded, expected), name
    stories = tokenize(args.float_folder, split_stories(args.text)[: args.limit])
    base = all_logits(load_float(args.float_folder), stories)
    result = compare(base, model, stories)
    print(json.dumps({"modules": len(modules), **result}))


if __name__ == "__main__":
    main()
