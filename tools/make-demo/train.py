"""Train the demo model.

    train.py TEXT TOKENIZER_DIR OUT_DIR [--steps N] [--decay N] [--state FILE]

Random windows of the packed stories; Muon for the matrices of the blocks, AdamW for the embedding and the norms.
The learning rates warm up, stay, and fall along a cosine over the last --decay steps. Three steps of four see windows
of 256 tokens, the fourth windows of 512. Every step draws its windows from its own seed, so that a run continued
from --state equals one in a single go.
"""

import argparse
import math
import os
import time
from pathlib import Path

import numpy
import torch
from tokenizers import Tokenizer

from llama import Llama, Shape
from muon import Muon

SEED = 20
MUON_RATE = 0.02
ADAM_RATE = 4e-3
WARM_UP = 60
TOKENS_PER_STEP = 2048
CLIP = 1.0
SAVE_EVERY = 200


def encode(text_path: str, tokenizer_dir: str) -> numpy.ndarray:
    """The token stream: every story follows the end-of-text token."""
    separator = "\n<|endoftext|>\n"
    tokenizer = Tokenizer.from_file(f"{tokenizer_dir}/tokenizer.json")
    stories = Path(text_path).read_text().rstrip("\n").split(separator)
    tokens = []
    for start in range(0, len(stories), 4096):
        for encoding in tokenizer.encode_batch(stories[start : start + 4096]):
            tokens.append(numpy.array(encoding.ids, dtype=numpy.int16))
    return numpy.concatenate(tokens)


def share_of_rate(step: int, steps: int, decay: int) -> float:
    left = min(1.0, (steps - step) / decay)
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * (0.5 - 0.5 * math.cos(math.pi * left)))


def window(stream: numpy.ndarray, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = 512 if step % 4 == 3 else 256
    random = numpy.random.Generator(numpy.random.PCG64([SEED, step]))
    starts = random.integers(0, len(stream) - length - 1, TOKENS_PER_STEP // length)
    rows = torch.from_numpy(numpy.stack([stream[s : s + length + 1] for s in starts]).astype(numpy.int64))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("tokenizer_dir")
    parser.add_argument("out_dir")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=int, required=True)
    parser.add_argument("--state", default="state.pt")
    args = parser.parse_args()

    torch.manual_seed(SEED)
    stream = encode(args.text, args.tokenizer_dir)
    print(f"{len(stream)} tokens of training text", flush=True)
    model = Llama(Shape(), SEED)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    inner = [p for name, p in model.weights.items() if "layers" in name and p.dim() == 2]
    outer = [p for name, p in model.weights.items() if "layers" not in name or p.dim() == 1]
    muon = Muon(inner)
    adam = torch.optim.AdamW(outer, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    first = 0
    if Path(args.state).exists():
        state = torch.load(args.state)
        first = state["step"]
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        print(f"continued at step {first}", flush=True)

    began, losses = time.time(), []
    for step in range(first, args.steps):
        share = share_of_rate(step, args.steps, args.decay)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * share
        loss = model(*window(stream, step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        muon.step(MUON_RATE * share)
        adam.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        done = step + 1
        if done % 50 == 0:
            mean = sum(losses[-50:]) / len(losses[-50:])
            speed = (done - first) * TOKENS_PER_STEP / (time.time() - began)
            print(f"step {done} loss {mean:.4f} tokens/s {speed:.0f}", flush=True)
        if done % SAVE_EVERY == 0 or done == args.steps:
            state = {"step": done, "model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
            torch.save(state, args.state + ".new")
            os.replace(args.state + ".new", args.state)
            model.save(Path(args.out_dir))


if __name__ == "__main__":
    main()
