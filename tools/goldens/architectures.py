"""Golden logits of every architecture of the reference runtime, computed by transformers in f32 with eager attention.

    python architectures.py OUT

writes OUT/<name>/ for each case: config.json, safetensors with tiny random weights, golden.safetensors with the tokens of a text longer than the
sliding window and the logits after each. The weights are rounded to bf16 (or f32 where that is the point) before anything is computed.
EXAONE 3.5 is not part of transformers: its case is a Llama whose configuration and tensors are renamed. Package versions: ../peers/requirements.txt.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 96
TOKENS = 48
WINDOW = 11
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
COMMON = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GEMMA = dict(
    model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], head_dim=12, query_pre_attn_scalar=20, sliding_window=WINDOW,
    rope_local_base_freq=100.0, hidden_activation="gelu_pytorch_tanh",
)  # fmt: skip
GPT2 = dict(
    model_type="gpt2", architectures=["GPT2LMHeadModel"], vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64,
    layer_norm_epsilon=1e-5, activation_function="gelu_new", bos_token_id=1, eos_token_id=2,
)  # fmt: skip

# name: (config.json, how it is stored). Storage: dtype; base: names lack the prefix, as GPT2Model saves them, and mask buffers lie beside the weights;
# exaone: configuration and tensors get EXAONE's names; shards.
CASES: dict[str, tuple[dict, dict]] = {
    "mistral-window": (
        COMMON | dict(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=WINDOW, head_dim=12), {}),
    "qwen2": (COMMON | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=True), {}),
    "qwen2-window": (
        COMMON | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], num_hidden_layers=3, use_sliding_window=True,
                      sliding_window=WINDOW, max_window_layers=1), {}),
    "qwen3": (
        COMMON | dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], head_dim=16, rope_theta=1000000.0,
                      tie_word_embeddings=True, intermediate_size=32), {"dtype": torch.float32}),
    "qwen3-biases": (
        COMMON | dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], head_dim=10, attention_bias=True), {}),
    "gemma3": (
        COMMON | GEMMA | dict(num_hidden_layers=7, tie_word_embeddings=True, rope_theta=1000000.0, hidden_size=16,
                              intermediate_size=24, num_attention_heads=2, num_key_value_heads=1),
        {"dtype": torch.float32}),
    "gemma3-bf16": (
        COMMON | GEMMA | dict(num_hidden_layers=6, tie_word_embeddings=True, rope_theta=5000.0, num_key_value_heads=1,
                              rope_scaling={"rope_type": "linear", "factor": 8.0}, final_logit_softcapping=10.0, hidden_size=24,
                              intermediate_size=32), {}),
    "gpt2": (GPT2 | dict(n_embd=24), {"dtype": torch.float32}),
    "gpt2-base": (GPT2 | dict(n_inner=48, n_layer=3), {"base": True, "shards": 2}),
    "exaone": (
        COMMON | dict(model_type="llama", architectures=["LlamaForCausalLM"], head_dim=16, rope_scaling=LLAMA3,
                      rope_theta=1000000.0, tie_word_embeddings=True), {"exaone": True}),
    "exaone-untied": (
        COMMON | dict(model_type="llama", architectures=["LlamaForCausalLM"], rope_scaling=LLAMA3), {"exaone": True, "shards": 3}),
}  # fmt: skip

EXAONE_NAMES = [
    ("model.embed_tokens", "transformer.wte"), ("model.layers", "transformer.h"), ("model.norm", "transformer.ln_f"),
    ("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2"), ("self_attn", "attn.attention"),
    ("o_proj", "out_proj"), ("gate_proj", "c_fc_0"), ("up_proj", "c_fc_1"), ("down_proj", "c_proj"),
]  # fmt: skip
EXAONE_KEYS = {
    "num_hidden_layers": "num_layers", "rms_norm_eps": "layer_norm_epsilon", "hidden_act": "activation_function",
}  # fmt: skip


def rng_of(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def random_weights(model: torch.nn.Module, name: str, dtype: torch.dtype) -> None:
    """Weights that make attention far from uniform and every part matter, rounded to the storage dtype."""
    rng = rng_of(name)
    gemma = "gemma" in name
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            x = rng.standard_normal(tuple(p.shape))
            if key.endswith("bias"):
                x = 0.3 * x
            elif p.dim() == 1:
                x = 0.2 * x + (0.0 if gemma else 1.0)
            elif "wpe" in key:
                x = 0.4 * x
            elif "embed" in key or "wte" in key or "lm_head" in key:
                x = 0.7 * x
            else:
                conv1d = any(part in key for part in ["c_attn", "c_fc", "attn.c_proj", "mlp.c_proj"])
                x = x * 1.5 / np.sqrt(p.shape[0 if conv1d else 1])
            p.copy_(torch.from_numpy(x).to(dtype).float())
    if gemma and dtype != torch.float32:
        # As the model's own class does when it runs in that type.
        scale = model.model.embed_tokens.embed_scale
        model.model.embed_tokens.embed_scale = scale.to(dtype).float()


@torch.inference_mode()
def logits_of(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


def renamed(tensors: dict[str, torch.Tensor], store: dict, n_layers: int) -> dict[str, torch.Tensor]:
    out = {}
    for key, tensor in tensors.items():
        if store.get("exaone"):
            for old, new in EXAONE_NAMES:
                key = key.replace(old, new)
        if store.get("base"):
            key = key.removeprefix("transformer.")
        out[key] = tensor
    if store.get("base"):
        for layer in range(n_layers):
            out[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril().to(torch.uint8)
            out[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return out


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    meta = {"format": "pt"}
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


def main(out: Path) -> None:
    for name, (settings, store) in CASES.items():
        dtype = store.get("dtype", torch.bfloat16)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        config_file = folder / "config.json"
        # The class reads the very file that the runtime will read, so that its defaults are tested too.
        settings = settings | {"torch_dtype": str(dtype).removeprefix("torch.")}
        config_file.write_text(json.dumps(dict(sorted(settings.items())), indent=1) + "\n")
        config = AutoConfig.from_pretrained(folder)
        config._attn_implementation = "eager"
        config.torch_dtype = torch.float32
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", torch_dtype=torch.float32).eval()
        random_weights(model, name, dtype)
        tokens = [1, *rng_of(name + ".tokens").integers(3, VOCAB, TOKENS - 1).tolist()]
        logits = logits_of(model, tokens)
        if "window" in name or "gemma" in name:
            short = logits_of(model, tokens[TOKENS - WINDOW :])[-1]
            assert (short - logits[-1]).abs().max() > 0.05, f"{name}: nothing reaches further than the window"
            change = [tokens[0], (tokens[1] + 1) % VOCAB, *tokens[2:]]
            same = logits_of(model, change)
            assert (same - logits)[1].abs().max() > 0.05, name
        state = {k: v for k, v in model.state_dict().items() if not k.endswith((".attn.bias", ".attn.masked_bias"))}
        if config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        tensors = {k: v.detach().to(dtype).contiguous().clone() for k, v in state.items()}
        n_layers = config.num_hidden_layers
        write_weights(folder, renamed(tensors, store, n_layers), store.get("shards", 1))
        save_file({"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits}, folder / "golden.safetensors")
        if store.get("exaone"):
            settings = {EXAONE_KEYS.get(k, k): v for k, v in settings.items()}
            settings |= {"model_type": "exaone", "architectures": ["ExaoneForCausalLM"]}
            if settings["tie_word_embeddings"]:
                del settings["tie_word_embeddings"]  # true where nothing says otherwise
            config_file.write_text(json.dumps(dict(sorted(settings.items())), indent=1) + "\n")
        elif "gemma" not in name:
            again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
            assert torch.equal(logits_of(again.eval(), tokens), logits), name
        for file in folder.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:16} {size / 1024:6.1f} KiB  logits {logits.std():.3f} std, {logits.abs().max():.3f} max")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.manual_seed(0)
    main(Path(sys.argv[1]))
