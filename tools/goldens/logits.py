"""Golden logits of the reference runtime, computed by transformers in f32 with eager attention.

    python logits.py tiny OUT                       tiny random-weight checkpoints, each with its golden.safetensors
    python logits.py shared MODELS TEXT OUT         goldens for the model folders under MODELS (the models are not copied)

``tiny`` writes OUT/<name>/ (config.json, safetensors, golden.safetensors). ``shared`` writes OUT/shared-<model>.safetensors
and OUT/shared-<model>.tokens.json. OUT/README.md tells what the tensors are. Package versions: ../peers/requirements.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

VOCAB = 96
TOKENS = 24
SEPARATOR = "<|endoftext|>"
PROMPT = "Once upon a time, there was a little girl"
PARAGRAPH = (
    "Once upon a time, in a town called Żółw-on-Sea, a cat named Tom said: \"I can't do it!\"\n"
    "\tHis friend — a 12-year-old owl — laughed.  Two  spaces, naïve café, 3.14159, x_1 = {a: [b]};\n\n"
    "Then 你好 🐢 they went home... The end? Yes; the END.\n"
)

BASE = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
    tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip

# name: (changes to BASE, how it is stored). Storage keys: dtype, head ("lm_head": the tied matrix is stored under
# that name only; "both": a differing lm_head.weight is stored beside the embedding, which wins), shards, parameters (the rope settings are written as transformers 5 does).
CASES: dict[str, tuple[dict, dict]] = {
    "tied": ({}, {}),
    "tied-lm-head-only": ({}, {"head": "lm_head"}),
    "tied-both": ({}, {"head": "both"}),
    "untied": ({"tie_word_embeddings": False}, {}),
    "head-dim": ({"head_dim": 12}, {}),
    "biases": ({"attention_bias": True, "mlp_bias": True}, {}),
    "mha": ({"num_key_value_heads": 4, "rope_theta": 500.0, "rms_norm_eps": 1e-6}, {}),
    "rope-llama3": ({"head_dim": 16, "rope_scaling": LLAMA3}, {}),
    "rope-linear": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, {}),
    "rope-parameters": ({"head_dim": 16, "rope_scaling": LLAMA3, "rope_theta": 500.0}, {"parameters": True}),
    "sharded": ({"tie_word_embeddings": False}, {"shards": 2}),
    "f16": ({}, {"dtype": torch.float16}),
    "bf16": ({"tie_word_embeddings": False}, {"dtype": torch.bfloat16}),
}


def rng_of(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def random_weights(model: torch.nn.Module, name: str, dtype: torch.dtype) -> None:
    """Weights that make attention far from uniform and every part matter, rounded to the storage dtype."""
    rng = rng_of(name)
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            x = rng.standard_normal(tuple(p.shape))
            if p.dim() == 1:
                x = 0.3 * x if key.endswith("bias") else 1.0 + 0.2 * x
            elif "embed" in key or "lm_head" in key:
                x = 0.7 * x
            else:
                x = x * 1.5 / np.sqrt(p.shape[1])
            p.copy_(torch.from_numpy(x).to(dtype).float())


@torch.inference_mode()
def logits_of(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


def write_config(folder: Path, config: LlamaConfig, dtype: torch.dtype, parameters: bool) -> None:
    data = config.to_dict()
    for key in ("pretraining_tp", "use_cache", "initializer_range", "attention_dropout", "_name_or_path"):
        data.pop(key, None)
    data = {k: v for k, v in data.items() if not (v is None and k != "rope_scaling")}
    keep = {
        *BASE, "architectures", "model_type", "hidden_act", "attention_bias", "mlp_bias", "head_dim", "rope_scaling",
        "rope_theta",
    }  # fmt: skip
    data = {k: v for k, v in data.items() if k in keep}
    if data["head_dim"] * data["num_attention_heads"] == data["hidden_size"] and not config.attention_bias:
        del data["head_dim"]  # most real files leave it to the reader
    data["architectures"] = ["LlamaForCausalLM"]
    name = str(dtype).removeprefix("torch.")
    if parameters:
        scaling = data.pop("rope_scaling") or {"rope_type": "default"}
        data["rope_parameters"] = {**scaling, "rope_theta": data.pop("rope_theta")}
        data["dtype"] = name
    else:
        data["torch_dtype"] = name
    (folder / "config.json").write_text(json.dumps(dict(sorted(data.items())), indent=1) + "\n")


def write_weights(folder: Path, model: torch.nn.Module, tied: bool, store: dict) -> None:
    dtype = store.get("dtype", torch.float32)
    tensors = {k: v.detach().to(dtype).contiguous().clone() for k, v in model.state_dict().items()}
    if tied:
        tensors.pop("lm_head.weight", None)
        if store.get("head") == "lm_head":
            tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        if store.get("head") == "both":
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1.0
    meta = {"format": "pt"}
    shards = store.get("shards", 1)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata=meta)
        return
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    weight_map, parts, used = {}, [{} for _ in range(shards)], 0
    for key, tensor in tensors.items():
        at = min(used * shards // total, shards - 1)
        parts[at][key] = tensor
        weight_map[key] = f"model-{at + 1:05}-of-{shards:05}.safetensors"
        used += tensor.numel() * tensor.element_size()
    for at, part in enumerate(parts):
        save_file(part, folder / f"model-{at + 1:05}-of-{shards:05}.safetensors", metadata=meta)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def tiny(out: Path) -> None:
    for name, (changes, store) in CASES.items():
        config = LlamaConfig(**(BASE | changes), attn_implementation="eager")
        dtype = store.get("dtype", torch.float32)
        model = LlamaForCausalLM(config).eval()
        random_weights(model, name, dtype)
        tokens = [1, *rng_of(name + ".tokens").integers(3, VOCAB, TOKENS - 1).tolist()]
        logits = logits_of(model, tokens)
        golden = {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits}
        if config.rope_scaling:
            golden["inv_freq"] = model.model.rotary_emb.inv_freq.float().clone()
            plain = LlamaForCausalLM(LlamaConfig(**(BASE | changes | {"rope_scaling": None})))
            plain.load_state_dict(model.state_dict())
            shift = (logits_of(plain.eval(), tokens) - logits).abs().max().item()
            assert shift > 0.1, f"{name}: the scaling does not matter at this length ({shift})"
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, config, dtype, store.get("parameters", False))
        write_weights(folder, model, config.tie_word_embeddings, store)
        save_file(golden, folder / "golden.safetensors")
        if not store.get("parameters") and store.get("head") != "lm_head":
            again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
            assert torch.equal(logits_of(again.eval(), tokens), logits), name
        for file in folder.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:20} {size / 1024:6.1f} KiB  logits {logits.std():.3f} std, {logits.abs().max():.3f} max")


def shared(models: Path, text: Path, out: Path) -> None:
    story = text.read_text(encoding="utf-8").split(SEPARATOR)[0].strip()
    for folder in sorted(p for p in models.iterdir() if (p / "config.json").exists()):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        bos = json.loads((folder / "config.json").read_text())["bos_token_id"]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

        tokens = [bos, *tokenizer.encode(story, add_special_tokens=False).ids][:64]
        assert len(tokens) == 64
        logits = logits_of(model, tokens)
        positions = [0, 1, 2, 7, 15, 31, 48, 63]
        nll = -torch.log_softmax(logits[:-1].double(), -1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]

        prompt = [bos, *tokenizer.encode(PROMPT, add_special_tokens=False).ids]
        ids, margins = list(prompt), []
        while len(ids) < len(prompt) + 64:  # end-of-text does not stop it; no cache, so that each step stands alone
            top = logits_of(model, ids)[-1].topk(2)
            margins.append((top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
        i32 = lambda x: torch.tensor(x, dtype=torch.int32)
        save_file(
            {
                "tokens": i32(tokens), "positions": i32(positions), "logits": logits[positions].clone(), "nll": nll.float(),
                "prompt": i32(prompt), "greedy": i32(ids[len(prompt) :]), "greedy_margin": torch.tensor(margins),
            },
            out / f"shared-{folder.name}.safetensors",
        )  # fmt: skip
        (out / f"shared-{folder.name}.safetensors").chmod(0o644)

        plain = tokenizer.encode(PARAGRAPH, add_special_tokens=False).ids
        special = tokenizer.encode(PARAGRAPH, add_special_tokens=True).ids
        assert AutoTokenizer.from_pretrained(folder)(PARAGRAPH, add_special_tokens=False).input_ids == plain
        sample = {
            "text": PARAGRAPH, "ids": plain, "ids_with_special": special,
            "decoded": tokenizer.decode(plain, skip_special_tokens=False),
        }  # fmt: skip
        path = out / f"shared-{folder.name}.tokens.json"
        lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in sample.items())
        path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
        greedy = tokenizer.decode(ids[len(prompt) :])
        print(f"{folder.name}: ppl of the 64 tokens {nll.mean().exp():.3f}, smallest greedy margin {min(margins):.4f}\n  {greedy!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="what", required=True)
    p = sub.add_parser("tiny")
    p.add_argument("out", type=Path)
    p = sub.add_parser("shared")
    p.add_argument("models", type=Path)
    p.add_argument("text", type=Path, help="file of stories; the tokens are the beginning of the first")
    p.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "tiny":
        tiny(args.out)
    else:
        shared(args.models, args.text, args.out)


if __name__ == "__main__":
    main()
