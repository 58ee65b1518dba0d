"""Look at a trained demo model as its users will: through transformers.

    check.py MODEL_DIR TEXT [--windows N]

prints samples, the perplexity on TEXT, and what plain rounding in groups of 32 costs at 8, 4, 3 and 2 bits.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

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


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to nearest on an affine grid of `bits` for each group of GROUP inputs."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    low = groups.amin(-1, keepdim=True).clamp(max=0.0)
    high = groups.amax(-1, keepdim=True).clamp(min=0.0)
    scale = (high - low).clamp(min=1e-9) / (2**bits - 1)
    zero_point = (-low / scale).round()
    codes = (groups / scale + zero_point).round().clamp(0, 2**bits - 1)
    return ((codes - zero_point) * scale).view_as(weight)


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
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False).input_ids[0]
    count = min(args.windows, len(ids) // WINDOW)
    ids = ids[: count * WINDOW].view(count, WINDOW)

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
