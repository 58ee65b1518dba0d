"""Times GPTQModel's Hessian accumulation and its quantize() alone, on one layer of random data.

    python solver_time.py [--size 4096] [--tokens 4096] [--threads 1 2] [--repeat 3] [--group-size 128] [--bits 4]
                          [--settings NAME ...] [--json OUT]

The layer is [size, size], Gaussian with standard deviation 0.02. The inputs are Gaussian with a correlated part; one
channel in a hundred is twenty times as large. Both come from a fixed seed. The Hessian is fed in eight batches, f32,
as GPTQModel is by its model loop. ``quantize`` covers everything from the Hessian to the rounded weights: scaling of
the Hessian, act-order, inverse, range search, column loop; packing and files are not part of it. Each figure is the
smallest of the repetitions (all are listed). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no idle compiler processes
if "--worker" not in sys.argv:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

SETTINGS = {
    "default": {},
    "sym-plain": {"act_group_aware": False},
    "affine-actorder": {"sym": False, "desc_act": True, "act_group_aware": False},
    "affine-actorder-mse": {"sym": False, "desc_act": True, "act_group_aware": False, "mse": 2.4},
    "default-mse": {"mse": 2.4},
}


def data(size: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(42)
    w = rng.standard_normal((size, size), dtype=np.float32) * np.float32(0.02)
    x = rng.standard_normal((tokens, size), dtype=np.float32)
    rank = max(1, size // 64)
    mix = rng.standard_normal((rank, size), dtype=np.float32) * np.float32(1 / np.sqrt(rank))
    x += rng.standard_normal((tokens, rank), dtype=np.float32) @ mix
    x[:, rng.permutation(size)[: max(1, size // 100)]] *= 20
    return torch.from_numpy(w), torch.from_numpy(x)


def gemm_gflops(size: int) -> float:
    """The machine's f32 matrix product at this size, for scale."""
    a = torch.randn(size, size)
    torch.mm(a, a)
    best = min(timed(lambda: torch.mm(a, a))[0] for _ in range(3))
    return 2 * size**3 / best / 1e9


def timed(work) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(options: dict, w: torch.Tensor, x: torch.Tensor, bits: int, group: int, repeat: int) -> dict:
    from gptqmodel import QuantizeConfig
    from gptqmodel.looper.named_module import NamedModule
    from gptqmodel.quantization.gptq import GPTQ

    hessian, quantize, loss = [], [], None
    for _ in range(repeat):
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        layer.weight.data = w.clone()
        config = QuantizeConfig(bits=bits, group_size=group, device="cpu", offload_to_disk=False, **options)
        solver = GPTQ(NamedModule(layer, name="layer", full_name="layer", layer_index=0), config)
        solver.quantizer.configure(perchannel=True)
        hessian.append(timed(lambda: [solver.add_batch(part, None) for part in x.chunk(8)])[0])
        seconds, result = timed(solver.quantize)
        quantize.append(seconds)
        q, damping = result[0], result[6]
        e = q.float() - w
        h = x.double().T @ x.double() if w.shape[1] <= 1024 else None
        if h is not None:
            loss = ((e.double() @ h) * e.double()).sum().item() / ((w.double() @ h) * w.double()).sum().item()
    return {
        "hessian_s": min(hessian), "quantize_s": min(quantize), "hessian_all": hessian, "quantize_all": quantize,
        "relative_output_error": loss, "damping": damping,
    }  # fmt: skip


def worker(args: argparse.Namespace) -> list[dict]:
    threads = args.threads[0]
    torch.set_num_threads(threads)
    w, x = data(args.size, args.tokens)
    common = {
        "tool": "gptqmodel 5.6.12", "torch": torch.__version__, "size": args.size, "tokens": args.tokens,
        "bits": args.bits, "group_size": args.group_size, "threads": threads, "gemm_gflops": gemm_gflops(args.size),
    }  # fmt: skip
    return [
        common | {"settings": name} | measure(SETTINGS[name], w, x, args.bits, args.group_size, args.repeat)
        for name in args.settings
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["default", "affine-actorder", "affine-actorder-mse"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        out = os.dup(1)
        os.dup2(2, 1)  # GPTQModel prints to stdout
        os.chdir(tempfile.mkdtemp())
        os.write(out, json.dumps(worker(args)).encode())
        return
    import subprocess

    rows = []
    for threads in args.threads:  # a process each: OpenMP and BLAS take their number of threads at the start
        command = [sys.executable, __file__, "--worker", "--threads", str(threads)]
        for key in ("size", "tokens", "bits", "group_size", "repeat"):
            command += ["--" + key.replace("_", "-"), str(getattr(args, key))]
        command += ["--settings", *args.settings]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, check=True)
        rows += json.loads(done.stdout)
    text = "[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]"
    (args.json.write_text(text + "\n") if args.json else print(text))


if __name__ == "__main__":
    main()
