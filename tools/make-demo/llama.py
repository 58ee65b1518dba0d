"""The demo model: a plain Llama for training, in bf16 with f32 master weights, saved under Hugging Face's names."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 1024
    hidden: int = 256
    intermediate: int = 512
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    context: int = 512
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    return x * scale.to(x.dtype) * weight


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(batch, length, heads, head_dim) and twice (batch, length, kv_heads, head_dim) to (batch, length, hidden).

    Queries go in four parts, each with the keys up to its end: that saves three eighths of the work.
    """
    batch, length, heads, size = q.shape
    kv_heads = k.shape[2]
    per, part = heads // kv_heads, -(-length // 4)
    # Query heads that share a key head are stacked along the length.
    q = q.view(batch, length, kv_heads, per, size).permute(0, 2, 3, 1, 4).reshape(batch * kv_heads, per, length, size)
    q = q * size**-0.5
    k = k.permute(0, 2, 3, 1).reshape(batch * kv_heads, size, length)
    v = v.permute(0, 2, 1, 3).reshape(batch * kv_heads, length, size)
    mask = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1)
    mixed = []
    for start in range(0, length, part):
        end = min(start + part, length)
        rows = q[:, :, start:end].reshape(batch * kv_heads, per * (end - start), size)
        scores = torch.bmm(rows, k[:, :, :end]).view(batch * kv_heads, per, end - start, end) + mask[start:end, :end]
        weights = scores.softmax(-1).view(batch * kv_heads, per * (end - start), end)
        mixed.append(torch.bmm(weights, v[:, :end]).view(batch, heads, end - start, size))
    return torch.cat(mixed, 2).transpose(1, 2).reshape(batch, length, heads * size)


def by_query_head(weight: Tensor, shape: Shape) -> Tensor:
    """The rows of every key-value head, repeated for each query head that shares it."""
    heads = weight.view(shape.kv_heads, shape.head_dim, -1)
    return heads.repeat_interleave(shape.heads // shape.kv_heads, 0).flatten(0, 1)


class Llama(nn.Module):
    """Parameters by their Hugging Face names, with `/` for `.`; the head is tied to the embedding."""

    def __init__(self, shape: Shape, seed: int):
        super().__init__()
        self.shape = s = shape
        generator = torch.Generator().manual_seed(seed)
        matrices = {"model.embed_tokens": (s.vocabulary, s.hidden)}
        norms = ["model.norm"]
        for i in range(s.layers):
            layer = f"model.layers.{i}"
            matrices |= {
                f"{layer}.self_attn.q_proj": (s.heads * s.head_dim, s.hidden),
                f"{layer}.self_attn.k_proj": (s.kv_heads * s.head_dim, s.hidden),
                f"{layer}.self_attn.v_proj": (s.kv_heads * s.head_dim, s.hidden),
                f"{layer}.self_attn.o_proj": (s.hidden, s.heads * s.head_dim),
                f"{layer}.mlp.gate_proj": (s.intermediate, s.hidden),
                f"{layer}.mlp.up_proj": (s.intermediate, s.hidden),
                f"{layer}.mlp.down_proj": (s.hidden, s.intermediate),
            }
            norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
        self.weights = nn.ParameterDict()
        for name, size in matrices.items():
            # What writes into the residual stream starts smaller, as the stream adds up 2·layers of them.
            deep = name.endswith(("o_proj", "down_proj"))
            std = size[1] ** -0.5 * ((2 * s.layers) ** -0.5 if deep else 1.0)
            std = 0.02 if name.endswith("embed_tokens") else std
            self.weights[name.replace(".", "/")] = nn.Parameter(torch.randn(size, generator=generator) * std)
        # After "Mimetic initialization of self-attention layers" (Trockman, Kolter, 2023): every head begins by copying the
        # token that it looks at, as the embedding is tied to the head; in the upper half of the layers, where the stream
        # already holds a guess of the next token, it looks for tokens like that. To repeat a name takes just this.
        for i in range(s.layers):
            q, k, v, o = (self.weights[f"model/layers/{i}/self_attn/{p}_proj"].data for p in "qkvo")
            o.copy_(by_query_head(v, s).T * (2 * s.layers) ** -0.5)
            if i >= s.layers // 2:
                q.copy_(by_query_head(k, s))
        for name in norms:
            self.weights[name.replace(".", "/")] = nn.Parameter(torch.ones(s.hidden))
        angles = torch.outer(
            torch.arange(s.context).float(), s.rope_theta ** (-torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of every target in nats. `tokens`, `targets`, result: (batch, length)."""
        s, dtype = self.shape, torch.bfloat16
        w = {name.replace("/", "."): value.to(dtype) for name, value in self.weights.items()}
        (batch, length), embedding = tokens.shape, w["model.embed_tokens"]
        cos, sin = (t[:length, None].to(dtype) for t in (self.cos, self.sin))
        x = F.embedding(tokens, embedding)
        for i in range(s.layers):
            layer = f"model.layers.{i}"
            attention = f"{layer}.self_attn"
            y = rms_norm(x, w[f"{layer}.input_layernorm"], s.rms_eps)
            qkv = F.linear(y, torch.cat([w[f"{attention}.{p}_proj"] for p in "qkv"]))
            qk, v = qkv.view(batch, length, -1, s.head_dim).split([s.heads + s.kv_heads, s.kv_heads], 2)
            a, b = qk.chunk(2, -1)
            qk = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
            q, k = qk.split([s.heads, s.kv_heads], 2)
            mixed = causal_attention(q, k, v)
            x = x + F.linear(mixed, w[f"{attention}.o_proj"])
            y = rms_norm(x, w[f"{layer}.post_attention_layernorm"], s.rms_eps)
            gate, up = F.linear(y, torch.cat([w[f"{layer}.mlp.{p}_proj"] for p in ("gate", "up")])).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w[f"{layer}.mlp.down_proj"])
        logits = F.linear(rms_norm(x, w["model.norm"], s.rms_eps), embedding)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(batch, length)

    def save(self, out: Path) -> None:
        """Writes model.safetensors (bf16), config.json and generation_config.json."""
        s = self.shape
        out.mkdir(parents=True, exist_ok=True)
        tensors = {
            name.replace("/", ".") + ".weight": value.detach().to(torch.bfloat16).contiguous()
            for name, value in self.weights.items()
        }
        save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
        config = {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "head_dim": s.head_dim,
            "hidden_act": "silu",
            "hidden_size": s.hidden,
            "initializer_range": 0.02,
            "intermediate_size": s.intermediate,
            "max_position_embeddings": s.context,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": s.heads,
            "num_hidden_layers": s.layers,
            "num_key_value_heads": s.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": s.rms_eps,
            "rope_scaling": None,
            "rope_theta": s.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": s.vocabulary,
        }
        generation = {"bos_token_id": 0, "do_sample": True, "eos_token_id": 0, "temperature": 0.7, "top_p": 0.95}
        for name, content in (("config.json", config), ("generation_config.json", generation)):
            (out / name).write_text(json.dumps(content, indent=2) + "\n")
