"""Tokens per second of llama.cpp and of our runtime on the same GGUF files, in the same sitting.

    cargo build --release --example speed
    python llama_bench.py LLAMA_BENCH SPEED FILE.gguf... [--threads 1,2] [--repeats 3] [--within COMMAND]

LLAMA_BENCH is llama.cpp's program of that name, SPEED our example. The two take turns, file by file, so that a machine
that changes its pace changes it for both. Prefill of 512 tokens, decode of 128 from an empty context. --within puts a
command in front of each run, such as one that keeps other programs off the machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path

arguments = argparse.ArgumentParser()
arguments.add_argument("llama_bench")
arguments.add_argument("speed")
arguments.add_argument("files", nargs="+", type=Path)
arguments.add_argument("--threads", default="1,2")
arguments.add_argument("--repeats", type=int, default=3)
arguments.add_argument("--within", default="")
ARGS = arguments.parse_args()


def run(*command: object) -> str:
    words = shlex.split(ARGS.within) + [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words}: {done.stderr[-2000:]}")
    return done.stdout


def of_llama_cpp(file: Path) -> dict[tuple[int, str], float]:
    """Tokens per second by threads and test: the mean of the repeats."""
    out = run(ARGS.llama_bench, "-m", file, "-p", 512, "-n", 128, "-t", ARGS.threads, "-r", ARGS.repeats, "-o", "json")
    # Lines of a log may stand around it.
    results = json.loads(out[out.index("[\n") : out.rindex("]") + 1])
    test = lambda result: "prefill" if result["n_prompt"] else "decode"
    return {(r["n_threads"], test(r)): r["avg_ts"] for r in results}


def of_ours(file: Path) -> tuple[dict[tuple[int, str], float], dict[int, list[str]]]:
    """The same of our runtime, the median of the repeats, and the cells of its table by threads."""
    out = run(ARGS.speed, "--model", file, "-p", 512, "-n", 128, "--threads", ARGS.threads, "--repeats", ARGS.repeats)
    speeds, rows = {}, {}
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 9 or not cells[1].isdigit():
            continue
        threads = int(cells[1])
        rows[threads] = cells
        for test, cell in [("prefill", cells[2]), ("decode", cells[4])]:
            speeds[threads, test] = float(re.match(r"[0-9.]+", cell)[0])
    return speeds, rows


print("| file | threads | prefill, llama.cpp | fewbit | ratio | decode, llama.cpp | fewbit | ratio | of bandwidth |")
print("| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
for file in ARGS.files:
    theirs, (ours, rows) = of_llama_cpp(file), of_ours(file)
    for threads in sorted(rows):
        cells = [file.stem, str(threads)]
        for test in ["prefill", "decode"]:
            a, b = theirs[threads, test], ours[threads, test]
            cells += [f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}"]
        print("| " + " | ".join([*cells, rows[threads][6]]) + " |", flush=True)
