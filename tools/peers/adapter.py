"""PEFT reads an adapter that `qat --method lora` wrote, and adds what the file says.

    python adapter.py MODEL OUT.adapter        # MODEL: the float model that was adapted

The environment of README.md, and ``pip install --no-deps peft==0.17.1``. Loads the adapter onto MODEL, merges it, and compares each matrix with MODEL's plus alpha / rank · B · A.
"""

import json
import sys
from pathlib import Path

import torch
import transformers.activations

# autoawq, if it is installed, is imported by PEFT and asks for a name that transformers has changed.
transformers.activations.PytorchGELUTanh = transformers.activations.GELUTanh
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

model, adapter = Path(sys.argv[1]), Path(sys.argv[2])
config = json.loads((adapter / "adapter_config.json").read_text())
factors = load_file(adapter / "adapter_model.safetensors")
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
before = {name: p.detach().clone() for name, p in base.named_parameters()}
merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
after = dict(merged.named_parameters())
seen = 0
for key in factors:
    if not key.endswith("lora_A.weight"):
        continue
    name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    delta = config["lora_alpha"] / config["r"] * factors[key.replace("lora_A", "lora_B")] @ factors[key]
    assert delta.abs().max() > 0, name
    torch.testing.assert_close(after[name + ".weight"], before[name + ".weight"] + delta, rtol=1e-5, atol=1e-6)
    seen += 1
untouched = [n for n in before if not torch.equal(before[n], after[n])]
assert seen == len(config["target_modules"]) == len(untouched), (seen, len(untouched))
print(f"{seen} matrices as the file says, all else as it was")
