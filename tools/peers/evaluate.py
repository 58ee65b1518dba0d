"""Perplexity, KL divergence and top-1 agreement of causal language models, story by story.

Protocol: the text is split at ``<|endoftext|>``, every story stripped of white space at both ends, empty
stories dropped. A story is BOS followed by its tokens (no other special token), cut to 512 tokens
including BOS, and is one forward pass of its own: stories are never joined. Every token but the first of
a story is predicted. Perplexity is exp of the mean negative log-likelihood over all predicted tokens;
KLD is the mean over the same positions of KL(float || quantized) in nats; top-1 agreement is the share of
these positions at which both models rank the same token first. The forward pass is f32 with eager
attention, and so is the log-softmax; sums over tokens are f64. (Perplexity alone takes an f64 log-softmax; the two
agree to seven digits.)

    python evaluate.py --float MODEL [--model OTHER ...] --text validation.txt [--limit N] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

SEPARATOR = "<|endoftext|>"
MAX_TOKENS = 512


def split_stories(path: str | Path) -> list[str]:
    text = Path(path).read_text(encoding="utf-8")
    return [story for story in (part.strip() for part in text.split(SEPARATOR)) if story]


def bos_of(folder: str | Path) -> int:
    return json.loads((Path(folder) / "config.json").read_text())["bos_token_id"]


def tokenize(folder: str | Path, stories: list[str], max_tokens: int | None = MAX_TOKENS) -> list[list[int]]:
    """BOS and the tokens of each story, cut to ``max_tokens`` in all."""
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    bos = bos_of(folder)
    encoded = tokenizer.encode_batch(stories, add_special_tokens=False)
    return [[bos, *e.ids][:max_tokens] for e in encoded]


def load_float(folder: str | Path) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


@torch.inference_mode()
def story_logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Logits [len - 1, V] f32 of the positions that predict a token of the story."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits.float()


def all_logits(model: torch.nn.Module, stories: list[list[int]]) -> list[torch.Tensor]:
    return [story_logits(model, ids) for ids in stories]


def nll_of(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    targets = torch.tensor(ids[1:])
    return -torch.log_softmax(logits.double(), -1).gather(1, targets[:, None])[:, 0]


def perplexity(model: torch.nn.Module, stories: list[list[int]], base: list[torch.Tensor] | None = None) -> dict:
    """Perplexity alone. ``base`` may hold the model's logits already."""
    total, count = 0.0, 0
    for k, ids in enumerate(stories):
        logits = base[k] if base is not None else story_logits(model, ids)
        nll = nll_of(logits, ids)
        total += nll.sum().item()
        count += nll.numel()
    return {
        "stories": len(stories),
        "tokens": sum(map(len, stories)),
        "predicted_tokens": count,
        "nll_sum": total,
        "ppl": math.exp(total / count),
    }


def compare(base: list[torch.Tensor], model: torch.nn.Module, stories: list[list[int]]) -> dict:
    """Perplexity of ``model`` and its divergence from the logits ``base`` of the float model."""
    nll_sum, kld, same = 0.0, [], 0
    for float_logits, ids in zip(base, stories, strict=True):
        logits = story_logits(model, ids)
        log_p = torch.log_softmax(float_logits, -1)
        log_q = torch.log_softmax(logits, -1)
        targets = torch.tensor(ids[1:])
        nll_sum -= log_q.gather(1, targets[:, None]).double().sum().item()
        kld.append((log_p.exp() * (log_p - log_q)).sum(-1).double())
        same += (float_logits.argmax(-1) == logits.argmax(-1)).sum().item()
    per_story = np.array([k.sum().item() for k in kld])
    counts = np.array([k.numel() for k in kld])
    kld = torch.cat(kld)
    n = kld.numel()
    mean = kld.mean().item()
    return {
        "stories": len(stories),
        "tokens": sum(map(len, stories)),
        "predicted_tokens": n,
        "nll_sum": nll_sum,
        "ppl": math.exp(nll_sum / n),
        "kld": mean,
        # The first takes tokens as independent; the second takes a story as one sample (the honest one).
        "kld_se": kld.std().item() / math.sqrt(n),
        "kld_se_story": float(np.sqrt((((per_story - mean * counts)) ** 2).sum()) / n),
        "top1": same / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--float", required=True, action="append", help="folder of a float model; its perplexity is printed")
    parser.add_argument("--model", action="append", default=[], help="folder of float weights to compare with the (one) float model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--limit", type=int, help="first N stories only")
    parser.add_argument("--json", help="write the results here instead of printing them")
    args = parser.parse_args()
    if args.model and len(args.float) != 1:
        parser.error("--model needs exactly one --float")
    stories = split_stories(args.text)[: args.limit]
    results = []
    for folder in args.float:
        start = time.time()
        ids = tokenize(folder, stories)
        base = all_logits(load_float(folder), ids)
        row = {"model": Path(folder).name, "text": Path(args.text).name, "limit": args.limit}
        results.append(row | perplexity(None, ids, base))
        print(f"{row['model']}: ppl {results[-1]['ppl']:.6f} in {time.time() - start:.0f} s", flush=True)
        for other in args.model:
            results.append({"model": Path(other).name, "baseline": row["model"]} | compare(base, load_float(other), ids))
    text = json.dumps(results, indent=1)
    if args.json:
        Path(args.json).write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
