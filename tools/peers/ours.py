"""Quantizes the comparison models with fewbit and prints the table beside the other tools' results.

    python ours.py MODELS CALIBRATION.txt VALIDATION.txt WORK [--program target/release/examples/quantize]

MODELS holds the model folders, WORK receives the quantized ones (finished cells are not done again). The protocol is that of
gptqmodel_run.py: 128 calibration windows of 384 tokens, every validation story on its own after BOS, cut to 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

CELLS = [(m, b, g) for m in ("TinyStories-656K", "llama-4m") for g in (128, 32) for b in (4, 3, 2)]


def quantize(args: argparse.Namespace, model: str, bits: int, group: int) -> dict:
    out = args.work / f"{model}-w{bits}g{group}"
    report = out / "report.json"
    if not report.is_file():
        command = [args.program, "--method", "gptq", "--model", args.models / model, "--bits", bits, "--group-size", group]
        command += ["--calibration", args.calibration, "--text", args.validation, "--windows", 128, "--window", 384]
        command += ["--eval-documents", 1_000_000, "--no-speed", "--out", out]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


RESULTS = Path(__file__).parent / "results"


def rows(name: str) -> list[dict]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else []


def peer(tool: str, model: str, bits: int, group: int) -> float | None:
    """The least divergence that a tool reached on all stories, of the settings that were run."""
    if tool == "gptqmodel":
        found = [r for r in rows(f"{model}-w{bits}g{group}") if not r["method"].startswith("rtn")]
    else:
        found = [r for r in rows(tool) if (r["model"], r["bits"], r["group_size"]) == (model, bits, group)]
    return min((r["kld"] for r in found if "kld" in r and r.get("stories") == 495), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("models", "calibration", "validation", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--program", type=Path, default=Path("target/release/examples/quantize"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tools = ["hqq", "llmcompressor", "gptqmodel", "autoround"]
    print("| model (float perplexity) | plain rounding | HQQ | llm-compressor | GPTQModel | AutoRound | fewbit | of the best peer's |")
    print("|---|---|---|---|---|---|---|---|")
    for model, bits, group in CELLS:
        evaluation = quantize(args, model, bits, group)["evaluation"]
        ours = evaluation["quantized"]
        kl, plain = ours["kl"]["value"], evaluation["plain_rounding"]["kl"]["value"]
        theirs = [peer(tool, model, bits, group) for tool in tools]
        cells = [f"{plain:.4f}", *("–" if t is None else f"{t:.4f}" for t in theirs)]
        best = min((t for t in theirs if t is not None), default=float("nan"))
        title = f"{model} ({ours['baseline']['perplexity']:.2f}), {bits} bits, g{group}"
        print(f"| {title} | {' | '.join(cells)} | **{kl:.4f}** | {kl / best:.2f} |", flush=True)


if __name__ == "__main__":
    main()
