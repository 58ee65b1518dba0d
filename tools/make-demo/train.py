"""Train the demo model.

    train.py TEXT VALIDATION_TEXT TOKENIZER_DIR OUT_DIR --steps N --decay N [--until N] [--state FILE]

Windows of packed stories, each from the beginning of a story, so that what a name refers to is always in sight; three
steps of four see windows of 256 tokens, the fourth windows of 512. A remembered word that its story has already used
counts REPEATED times as much as another token, since there are few of them and looking back is learned from them alone.

Muon for the matrices of the blocks, AdamW for the embedding and the norms. The learning rates warm up, stay, and fall
along a cosine over the last --decay steps, and that extra weight with them. Every step draws its windows from its own seed, so that a run continued
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
from words import NAMES, REMEMBERED, words

SEED = 20
MUON_RATE = 0.02
ADAM_RATE = 4e-3
WARM_UP = 60
TOKENS_PER_STEP = 2048
REPEATED = 6.0
CLIP = 1.0
SAVE_EVERY = 100


def encode(text_path: str, tokenizer: Tokenizer) -> numpy.ndarray:
    """The token stream: every story follows the end-of-text token."""
    separator = "\n<|endoftext|>\n"
    stories = Path(text_path).read_text().rstrip("\n").split(separator)
    tokens = []
    for start in range(0, len(stories), 4096):
        for encoding in tokenizer.encode_batch(stories[start : start + 4096]):
            tokens.append(numpy.array(encoding.ids, dtype=numpy.int16))
    return numpy.concatenate(tokens)


def share_of_decay(step: int, steps: int, decay: int) -> float:
    """One until the decay begins, then along a cosine to zero."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, (steps - step) / decay))


def pairs(rows: list[numpy.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets."""
    tokens = torch.from_numpy(numpy.stack(rows).astype(numpy.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def window(stream: numpy.ndarray, begins: numpy.ndarray, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = 512 if step % 4 == 3 else 256
    random = numpy.random.Generator(numpy.random.PCG64([SEED, step]))
    fit = numpy.searchsorted(begins, len(stream) - length)
    starts = begins[random.integers(0, fit, TOKENS_PER_STEP // length)]
    return pairs([stream[s : s + length + 1] for s in starts])


class Mentions:
    """Tells the first mention of a word in a story from a later one."""

    def __init__(self, tokenizer: Tokenizer, watched: list[str]):
        self.word_of = {tokenizer.token_to_id("Ġ" + word): word for word in watched}
        # Without a space before it, only a capital letter shows that a token is not the end of a longer word.
        self.word_of |= {tokenizer.token_to_id(word): word for word in watched if word[0].isupper()}
        self.word_of.pop(None, None)

    def __call__(self, targets: torch.Tensor) -> torch.Tensor:
        """0 for other tokens, 1 for a first mention, 2 for a later one. `targets`, result: (batch, length)."""
        kinds = []
        for row in targets.tolist():
            seen = set()
            for token in row:
                word = self.word_of.get(token)
                kinds.append(0 if word is None else 2 if word in seen else 1)
                seen = set() if token == 0 else seen | {word} if word else seen
        return torch.tensor(kinds).view_as(targets)


@torch.no_grad()
def validate(model: Llama, tokens: torch.Tensor, targets: torch.Tensor, names: Mentions) -> str:
    loss = torch.cat([model(*batch) for batch in zip(tokens.split(8), targets.split(8))])
    kinds = names(targets)
    new, again = (loss[kinds == kind].mean().item() for kind in (1, 2))
    return f"validation loss {loss.mean().item():.4f}, of a new name {new:.3f}, of a name again {again:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("validation_text")
    parser.add_argument("tokenizer_dir")
    parser.add_argument("out_dir")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=int, required=True)
    parser.add_argument("--until", type=int, help="stop here, before the schedule ends")
    parser.add_argument("--state", default="state.pt")
    args = parser.parse_args()

    last = args.until or args.steps
    state = torch.load(args.state) if Path(args.state).exists() else None
    first = state["step"] if state else 0
    if first >= last:
        return
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(f"{args.tokenizer_dir}/tokenizer.json")
    names, remembered = (Mentions(tokenizer, words(lists)) for lists in (NAMES, REMEMBERED))
    held_out = encode(args.validation_text, tokenizer)
    watched = pairs([held_out[s : s + 257] for s in numpy.flatnonzero(held_out == 0)[:160:4]])
    stream = encode(args.text, tokenizer)
    begins = numpy.flatnonzero(stream == 0)
    print(f"{len(stream)} tokens of training text", flush=True)
    model = Llama(Shape(), SEED)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    inner = [p for name, p in model.weights.items() if "layers" in name and p.dim() == 2]
    outer = [p for name, p in model.weights.items() if "layers" not in name or p.dim() == 1]
    muon = Muon(inner)
    adam = torch.optim.AdamW(outer, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    if state:
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        print(f"continued at step {first}", flush=True)

    began, losses = time.time(), []
    for step in range(first, last):
        decay = share_of_decay(step, args.steps, args.decay)
        share = min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * decay)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * share
        tokens, targets = window(stream, begins, step)
        weight = 1.0 + (REPEATED - 1.0) * decay * (remembered(targets) == 2)
        loss = model(tokens, targets)
        ((weight * loss).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        muon.step(MUON_RATE * share)
        adam.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.mean().item())
        done = step + 1
        if done % 50 == 0:
            mean = sum(losses[-50:]) / len(losses[-50:])
            speed = (done - first) * TOKENS_PER_STEP / (time.time() - began)
            print(f"step {done} loss {mean:.4f} tokens/s {speed:.0f}", flush=True)
            if done % 200 == 0:
                print(f"step {done} {validate(model, *watched, names)}", flush=True)
        if done % SAVE_EVERY == 0 or done == last:
            state = {"step": done, "model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
            torch.save(state, args.state + ".new")
            os.replace(args.state + ".new", args.state)
            model.save(Path(args.out_dir))


if __name__ == "__main__":
    main()
