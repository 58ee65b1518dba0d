"""Times `convert --floats` against llama-quantize on one model: medians of whole runs, files and all, in turns.

    python encode_time.py MODEL FLOAT.gguf CONVERT LLAMA_QUANTIZE WORK --types q8_0 q4_0 q4_k --threads 1 2 --rounds 3

FLOAT.gguf is MODEL in floats: `convert MODEL FLOAT.gguf --to gguf`. Each output is removed after its run. Prints seconds and the peak of anonymous
resident memory (sampled), and whether both files have the same bytes in every tensor (needs gguf; --compare).
"""

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path


def run(command, threads):
    start, peak = time.monotonic(), 0
    env = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            for line in open(f"/proc/{process.pid}/status"):
                if line.startswith("RssAnon"):
                    peak = max(peak, int(line.split()[1]))
        except OSError:
            pass
        time.sleep(0.005)
    assert process.returncode == 0, command
    return time.monotonic() - start, peak / 1024


def same(ours, theirs):
    from gguf import GGUFReader

    a, b = ({t.name: (t.tensor_type, t.data) for t in GGUFReader(f).tensors} for f in (ours, theirs))
    b.pop("rope_freqs.weight", None), a.pop("rope_freqs.weight", None)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return {name for name in a if a[name][0] != b[name][0] or (a[name][1].reshape(-1) != b[name][1].reshape(-1)).any()}


def main():
    parser = argparse.ArgumentParser()
    for name in ["model", "float", "convert", "quantize", "work"]:
        parser.add_argument(name, type=Path)
    parser.add_argument("--types", nargs="+", default=["q8_0", "q4_0", "q4_k"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compare", action="store_true")
    a = parser.parse_args()
    for file in [a.float, *a.model.glob("*.safetensors")]:  # into the page cache, both
        with open(file, "rb") as f:
            while f.read(1 << 24):
                pass
    for kind in a.types:
        for threads in a.threads:
            figures = {"fewbit": [], "llama.cpp": []}
            for _ in range(a.rounds):
                ours, theirs = a.work / "ours.gguf", a.work / "theirs.gguf"
                for file in (ours, theirs):
                    file.unlink(missing_ok=True)
                figures["fewbit"].append(run([a.convert, a.model, ours, "--to", "gguf", "--floats", kind], threads))
                if not a.compare:
                    ours.unlink()
                figures["llama.cpp"].append(run([a.quantize, "--pure", a.float, theirs, kind, str(threads)], threads))
                if a.compare:
                    print(kind, "tensors that differ:", same(ours, theirs) or "none")
                for file in (ours, theirs):
                    file.unlink(missing_ok=True)
            for name, runs in figures.items():
                seconds = statistics.median(t for t, _ in runs)
                print(f"{kind} {threads} threads {name:10} {seconds:7.2f} s  {max(m for _, m in runs):6.0f} MiB  {[round(t, 2) for t, _ in runs]}", flush=True)


main()
