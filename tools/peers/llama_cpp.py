"""What llama.cpp does with GGUF files of ours: tokens, perplexity, greedy text.

    cargo build --release -p fewbit-checkpoint --examples
    python llama_cpp.py LLAMA_CPP BIN EXAMPLES TESTDATA MODELS TEXT [--write]

LLAMA_CPP is a source tree, BIN a folder with its programs, EXAMPLES the folder of our built examples, TESTDATA
crates/checkpoint/testdata/gguf_model, MODELS a folder of model folders (stories260K, llama-4m), TEXT a text file.
Prints what agrees; --write stores perplexities and texts as TESTDATA/llama_cpp.json, which our runtime is tested
against. llama.cpp computes in f32 here: f32 weights, f32 cache, no flash attention.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer

WRITE = "--write" in sys.argv
LLAMA_CPP, BIN, EXAMPLES, TESTDATA, MODELS, TEXT = (Path(a).resolve() for a in sys.argv[1:] if a != "--write")
# The generator of the tiny models.
GENERATOR = Path(__file__).resolve().parents[1] / "goldens" / "gguf_model.py"
sys.argv = [str(GENERATOR), str(LLAMA_CPP), str(BIN), str(TESTDATA)]
sys.path[:0] = [str(GENERATOR.parent), str(LLAMA_CPP / "gguf-py")]
import gguf  # noqa: E402
import gguf_model as tiny  # noqa: E402

PUBLISHED = ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "mpt", "command-r", "refact", "starcoder"]
PROMPT = "Once upon a time, there was a little"
SAME = ["-ctk", "f32", "-ctv", "f32", "-fa", "off", "-t", "1", "--poll", "0"]
# Types that plain rounding gives. Perplexity is measured on the weights that llama.cpp decodes, with its activations in f32.
KINDS = ["Q8_0", "Q4_0", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS"]
# Characters of the text that perplexity is measured on.
CHARACTERS = 30_000


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    return done.stdout


def vocabularies(temp: Path) -> None:
    """Published vocabularies: our tokenizer.json and our GGUF of it give the tokens that llama.cpp gives."""
    for name in PUBLISHED:
        source = LLAMA_CPP / "models" / f"ggml-vocab-{name}.gguf"
        folder = temp / name
        notes = run(EXAMPLES / "gguf_vocabulary", source, folder).strip()
        ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
        pieces = Path(f"{source}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
        expected = [[int(t) for t in line.split()] for line in Path(f"{source}.out").read_text().split("\n")]
        equal = sum(ours.encode(p, add_special_tokens=False).ids == e for p, e in zip(pieces, expected))
        # Special tokens are text to llama.cpp unless told otherwise, and tokens to Hugging Face.
        text = "".join(pieces) + TEXT.read_text(encoding="utf-8")[:CHARACTERS]
        text = text.replace("<unk>", "").replace("<|endoftext|>", "")
        options = ["--no-bos", "--no-parse-special"]
        theirs = tiny.tokenize(source, text, *options)
        again = tiny.tokenize(folder / "vocabulary.gguf", text, *options)
        mine = ours.encode(text, add_special_tokens=False).ids
        print(f"vocabulary {name:12} {equal} of {len(pieces)} pieces; {len(theirs)} tokens of text: "
              f"tokenizer.json {'equal' if mine == theirs else 'DIFFERS'}, GGUF {'equal' if again == theirs else 'DIFFERS'} {notes}")


def perplexity(model: Path, text: str, context: int) -> dict:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".txt") as file:
        file.write(text)
        file.flush()
        # Its log is written by a thread of its own, which is now and then ended before the last line.
        for _ in range(10):
            done = subprocess.run(
                [str(BIN / "llama-perplexity"), "-m", str(model), "-f", file.name, "-c", str(context), "-b", str(context), *SAME],
                capture_output=True, text=True)
            found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
            if found:
                return {"context": context, "perplexity": float(found[1])}
    raise RuntimeError(done.stderr[-2000:])


def divergence(temp: Path, name: str, kind: str, text: str) -> dict:
    """What --kl-divergence says of our quantized file, decoded to f32 by llama.cpp, against the floats; after `quantized`."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".txt") as file:
        file.write(text)
        file.flush()
        logits = temp / f"{name}.logits"
        common = ["-f", file.name, "-c", "256", "-b", "256", "--kl-divergence-base", logits, *SAME]
        run(BIN / "llama-perplexity", "-m", temp / f"{name}.gguf", *common)
        for _ in range(10):
            said = run(BIN / "llama-perplexity", "-m", temp / f"{name}-{kind}-decoded.gguf", "--kl-divergence", *common)
            mean = re.search(r"Mean +KLD: +([0-9.]+)", said)
            top = re.search(r"Same top p: +([0-9.]+)", said)
            if mean and top:
                return {"kl": float(mean[1]), "same_top": float(top[1])}
    raise RuntimeError(said[-2000:])


def quantized(temp: Path, name: str, kind: str, text: str) -> float:
    """Perplexity of our quantized file; says how it differs from that of llama-quantize."""
    ours, theirs, decoded = (temp / f"{name}-{kind}{end}.gguf" for end in ["", "-theirs", "-decoded"])
    run(EXAMPLES / "to_gguf", MODELS / name, ours, kind)
    run(BIN / "llama-quantize", temp / f"{name}.gguf", theirs, kind, 1)
    a, b = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in [ours, theirs])
    kinds = [n for n in a if a[n].tensor_type != b[n].tensor_type]
    values = {n: (a[n].data != b[n].data).mean() for n in a if n not in kinds and (a[n].data != b[n].data).any()}
    worst = max(values.values(), default=0.0)
    run(BIN / "llama-quantize", "--allow-requantize", ours, decoded, "F32", 1)
    found = perplexity(decoded, text, 256)["perplexity"]
    print(f"{name} {kind}: {found:.4f}, with 8-bit activations {perplexity(ours, text, 256)['perplexity']:.4f}; against llama-quantize: "
          f"{len(kinds)} of {len(a)} tensors of another type, {len(values)} of other bytes ({worst:.2%} at most)")
    return found


def transformers_perplexity(folder: Path, text: str, context: int) -> float | None:
    """The same protocol: windows without overlap, the first token replaced by BOS, the second halves predicted."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
    except (ValueError, KeyError):
        return None
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    nll, count = 0.0, 0
    for begin in range(0, len(tokens) - context + 1, context):
        window = torch.tensor([tokens[begin:begin + context]])
        window[0, 0] = 1
        with torch.no_grad():
            logits = model(window).logits[0].double()
        first = context // 2
        losses = torch.nn.functional.cross_entropy(logits[first:-1], window[0, first + 1:], reduction="sum")
        nll, count = nll + losses.item(), count + context - 1 - first
    return float(torch.tensor(nll / count, dtype=torch.float64).exp())


def greedy(model: Path, tokens: int) -> str:
    command = [BIN / "llama-completion", "-m", model, "-p", PROMPT, "-n", tokens, "--temp", 0, "--no-display-prompt", "-no-cnv",
               "--no-warmup", *SAME]
    # The end of its text is lost now and then, as that of its log.
    text = max((run(*command) for _ in range(5)), key=len)
    return text.removesuffix("\n").removesuffix("[end of text]").removesuffix(" ")


def main() -> None:
    golden = {}
    with tempfile.TemporaryDirectory() as temp:
        temp = Path(temp)
        vocabularies(temp)
        text = (TESTDATA / "text.txt").read_text(encoding="utf-8") * 2
        for name, config in tiny.CONFIGS.items():
            folder = temp / name
            tiny.write_model(folder, config)
            for file in (TESTDATA / "tokenizers" / tiny.tokenizer_of(name)).iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            path = temp / f"{name}.gguf"
            run(EXAMPLES / "to_gguf", folder, path)
            found = perplexity(path, text, 64)
            reference = transformers_perplexity(folder, text, 64)
            golden[name] = found
            says = "-" if reference is None else f"{reference:.4f}, ratio {found['perplexity'] / reference:.6f}"
            print(f"tiny {name:8} llama.cpp {found['perplexity']:.4f}, transformers {says}")
        text = TEXT.read_text(encoding="utf-8").replace("<|endoftext|>", "")[:CHARACTERS].removesuffix("\n")
        for name in ["stories260K", "llama-4m"]:
            path = temp / f"{name}.gguf"
            run(EXAMPLES / "to_gguf", MODELS / name, path)
            golden[name] = perplexity(path, text, 256) | {"characters": CHARACTERS, "prompt": PROMPT, "greedy": greedy(path, 60)}
            golden[name]["quantized"] = {kind: quantized(temp, name, kind, text) for kind in KINDS}
            golden[name]["divergence"] = {kind: divergence(temp, name, kind, text) for kind in ["Q4_0", "Q2_K"]}
            print(f"{name}: {golden[name]}")
    if WRITE:
        tiny.write_json(TESTDATA / "llama_cpp.json", golden)


if __name__ == "__main__":
    main()
