"""Look at a trained demo model as its users will: through transformers.

    check.py MODEL_DIR TEXT [--windows N]

prints samples, how many names a story has, what a name and other remembered words cost at their first mention in a
story and at later ones, the perplexity on TEXT, and what plain rounding in groups of 32 costs at 8, 6, 4, 3 and 2 bits.
"""

import argparse
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from words import NAMES, THINGS, words

PROMPTS = [
    "The future of artificial intelligence is",
    "Once upon a time, there was a",
    "A brave robot called",
    "Captain Mia had a ship",
    '"Good morning," said Tom.',
    "How to cook",
    "Anna has seven apples. Ben gives her five more. Seven and five make",
    "",
]
WINDOW = 256
GROUP = 32
STORIES = 200


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to nearest on an affine grid of `bits` for each group of GROUP inputs."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    low = groups.amin(-1, keepdim=True).clamp(max=0.0)
    high = groups.amax(-1, keepdim=True).clamp(min=0.0)
    scale = (high - low).clamp(min=1e-9) / (2**bits - 1)
    zero_point = (-low / scale).round()
    codes = (groups / scale + zero_point).round().clamp(0, 2**bits - 1)
    return ((codes - zero_point) * scale).view_as(weight)


def recall(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, stories: list[str], watched: list[str]) -> str:
    """The nats of the watched words, with all tokens of each, and how often the first guess was right."""
    found = {"new": [], "again": []}
    for story in stories:
        encoding = tokenizer(story, return_offsets_mapping=True)
        ids = torch.tensor([encoding.input_ids])
        logits = model(input_ids=ids).logits[0, :-1]
        nats = F.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
        right = (logits.argmax(-1) == ids[0, 1:]).tolist()
        seen = set()
        for word in re.finditer(rf"\b(?:{'|'.join(watched)})\b", story):
            inside = [i for i, (a, b) in enumerate(encoding.offset_mapping) if a < word.end() and word.start() < b]
            kind = "again" if word.group() in seen else "new"
            found[kind].append((sum(nats[i - 1] for i in inside), all(right[i - 1] for i in inside)))
            seen.add(word.group())
    parts = []
    for kind, values in found.items():
        mean, hits = (sum(column) / len(values) for column in zip(*values))
        parts.append(f"{kind} {mean:.3f} nats, guessed {100 * hits:.1f} % ({len(values)})")
    return "; ".join(parts)


def cast(stories: list[str]) -> str:
    """How many different names the stories use: a model that forgets a name brings in another."""
    counts = [len(set(re.findall(rf"\b(?:{'|'.join(words(NAMES))})\b", story))) for story in stories]
    many = sum(count > 3 for count in counts) / len(counts)
    return f"{sum(counts) / len(counts):.2f} names, more than three in {100 * many:.0f} %"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=160)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir)
    model = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.float32).eval()

    torch.manual_seed(0)
    for prompt in PROMPTS:
        out = model.generate(
            **tokenizer(prompt, return_tensors="pt"),
            max_new_tokens=160,
            do_sample=True,
            temperature=0.7,
            top_k=0,
            top_p=0.95,
            pad_token_id=0,
        )
        print(f">>> {prompt}\n{tokenizer.decode(out[0], skip_special_tokens=True)}\n")

    text = Path(args.text).read_text()
    stories = text.split("\n<|endoftext|>\n")[:STORIES]
    written = model.generate(
        **tokenizer("", return_tensors="pt"),
        num_return_sequences=STORIES,
        max_new_tokens=400,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        top_p=0.95,
        pad_token_id=0,
    )
    print(f"a story of the text has {cast(stories)}")
    print(f"a story of the model has {cast(tokenizer.batch_decode(written, skip_special_tokens=True))}")
    print(f"names: {recall(model, tokenizer, stories, words(NAMES))}")
    print(f"other remembered words: {recall(model, tokenizer, stories, words(THINGS))}")

    # Windows that begin with a story, as in training.
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    begins = [b for b in (ids == 0).nonzero().flatten().tolist() if b + WINDOW <= len(ids)]
    begins = begins[:: max(1, len(begins) // args.windows)][: args.windows]
    ids = torch.stack([ids[b : b + WINDOW] for b in begins])

    def log_probabilities() -> torch.Tensor:
        rows = [model(input_ids=batch).logits[:, :-1].log_softmax(-1) for batch in ids.split(16)]
        return torch.cat(rows)

    reference = log_probabilities()
    loss = F.nll_loss(reference.flatten(0, 1), ids[:, 1:].flatten()).item()
    size = len(tokenizer.decode(ids.flatten()).encode()) / ids.numel()
    print(f"{ids.numel()} tokens of text, {size:.2f} bytes a token, windows of {WINDOW}")
    print(f"float: loss {loss:.4f} nats a token, perplexity {math.exp(loss):.3f}")

    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in n}
    original = {n: m.weight.clone() for n, m in linears.items()}
    for bits in (8, 6, 4, 3, 2):
        for name, linear in linears.items():
            linear.weight.copy_(rounded(original[name], bits))
        q = log_probabilities()
        divergence = (reference.exp() * (reference - q)).sum(-1).mean().item()
        same = (reference.argmax(-1) == q.argmax(-1)).float().mean().item()
        loss = F.nll_loss(q.flatten(0, 1), ids[:, 1:].flatten()).item()
        print(
            f"{bits} bits: KL divergence {divergence:.5f} nats, same top token {100 * same:.1f} %, "
            f"perplexity {math.exp(loss):.3f}"
        )


if __name__ == "__main__":
    main()
