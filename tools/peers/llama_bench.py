"""Tokens per second of llama.cpp and of our runtime on the same GGUF files, in the same sitting.

    cargo build --release --example speed
    python llama_bench.py LLAMA_BENCH SPEED FILE.gguf... [--threads 1,2] [--rounds 3] [--decode 128] [--within COMMAND]

LLAMA_BENCH is llama.cpp's program of that name, SPEED our example. For each file and number of threads the two take turns,
round by round, so that a machine that changes its pace changes it for both. Each round is a prefill of 512 tokens and a
decode from an empty context, after one that is not timed. Printed are medians over the rounds: of either's tokens per second,
of the ratio within a round (and its range), and of the share that decode has of the speed at which the same round's plain
loads read memory. --within puts a command in front of each run, such as one that keeps other programs off the machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path
from statistics import median

arguments = argparse.ArgumentParser()
arguments.add_argument("llama_bench")
arguments.add_argument("speed")
arguments.add_argument("files", nargs="+", type=Path)
arguments.add_argument("--threads", default="1,2")
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--decode", type=int, default=128)
arguments.add_argument("--within", default="")
ARGS = arguments.parse_args()


def run(*command: object) -> str:
    words = shlex.split(ARGS.within) + [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words}: {done.stderr[-2000:]}")
    return done.stdout


def of_llama_cpp(file: Path, threads: str) -> tuple[float, float]:
    """Tokens per second of prefill and decode."""
    out = run(ARGS.llama_bench, "-m", file, "-p", 512, "-n", ARGS.decode, "-t", threads, "-r", 1, "-o", "json")
    # Lines of a log may stand around it.
    results = json.loads(out[out.index("[\n") : out.rindex("]") + 1])
    prefill = next(r["avg_ts"] for r in results if r["n_prompt"])
    return prefill, next(r["avg_ts"] for r in results if not r["n_prompt"])


def of_ours(file: Path, threads: str) -> tuple[float, float, float]:
    """The same of our runtime, and the share of bandwidth."""
    out = run(ARGS.speed, "--model", file, "-p", 512, "-n", ARGS.decode, "--threads", threads, "--repeats", 1)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    cells = next(cells for cells in rows if len(cells) >= 9 and cells[1] == threads)
    number = lambda cell: float(re.match(r"[0-9.]+", cell)[0])
    return number(cells[2]), number(cells[4]), number(cells[6]) / 100


print("| file | threads | prefill, llama.cpp | fewbit | ratio | decode, llama.cpp | fewbit | ratio | of plain loads, llama.cpp | fewbit |")
print("| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
for file in ARGS.files:
    for threads in ARGS.threads.split(","):
        rounds = [(of_llama_cpp(file, threads), of_ours(file, threads)) for _ in range(ARGS.rounds)]
        cells = [file.stem, threads]
        for test in range(2):
            pairs = [(theirs[test], ours[test]) for theirs, ours in rounds]
            ratios = sorted(b / a for a, b in pairs)
            cells += [f"{median(a for a, _ in pairs):.1f}", f"{median(b for _, b in pairs):.1f}"]
            cells += [f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"]
        # Both read the same bytes a token.
        shares = [(ours[2] * theirs[1] / ours[1], ours[2]) for theirs, ours in rounds]
        cells += [f"{100 * median(share[i] for share in shares):.0f} %" for i in range(2)]
        print("| " + " | ".join(cells) + " |", flush=True)
