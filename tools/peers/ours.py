"""Quantizes the comparison models with fewbit and prints the table beside GPTQModel's results.

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


def peer(model: str, bits: int, group: int) -> dict | None:
    path = Path(__file__).parent / "results" / f"{model}-w{bits}g{group}.json"
    if not path.is_file():
        return None
    rows = [r for r in json.loads(path.read_text()) if not r["method"].startswith("rtn") and r.get("limit", 0) is None]
    return min((r for r in rows if "kld" in r), key=lambda r: r["kld"], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("models", "calibration", "validation", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--program", type=Path, default=Path("target/release/examples/quantize"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print("| model (float perplexity) | plain rounding | GPTQModel, best setting | fewbit | of GPTQModel's KL | bits, GPTQModel / fewbit |")
    print("|---|---|---|---|---|---|")
    for model, bits, group in CELLS:
        report = quantize(args, model, bits, group)
        evaluation = report["evaluation"]
        cell = lambda d: f"{d['model']['perplexity']:.2f} / {d['kl']['value']:.4f}"
        ours = evaluation["quantized"]
        title = f"{model} ({ours['baseline']['perplexity']:.2f}), {bits} bits, g{group}"
        theirs = peer(model, bits, group)
        if theirs:
            names = [f"{theirs['ppl']:.2f} / {theirs['kld']:.4f}", cell(ours), f"{ours['kl']['value'] / theirs['kld']:.2f}"]
            widths = f"{theirs['bpw']:.3f} / {report['bits_per_weight']:.3f}"
        else:
            names, widths = ["not run", cell(ours), "–"], f"– / {report['bits_per_weight']:.3f}"
        print(f"| {title} | {cell(evaluation['plain_rounding'])} | {' | '.join(names)} | {widths} |", flush=True)


if __name__ == "__main__":
    main()
