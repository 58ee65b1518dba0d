"""Zero points that HQQ finds, group by group: crates/awq/testdata/hqq.json.

    python half_quadratic.py crates/awq/testdata/hqq.json

Needs torch and the file hqq/core/optimize.py of hqq 0.2.8.post1 (``pip install --no-deps hqq==0.2.8.post1``). Each group is a matrix of its own, because
the program decides for a whole matrix when to stop; `kappa` has no effect in it.
"""

import json
import sys

import torch
from hqq.core.optimize import optimize_weights_proximal

torch.manual_seed(5)
cases = []
for bits in (2, 3, 4, 8):
    for group, kind in ((32, "normal"), (64, "cubed"), (128, "shifted"), (24, "student")):
        w = torch.randn(1, group) * 0.05
        if kind == "cubed":
            w = 8 * w**3 / 0.05
        if kind == "shifted":
            w += 0.03
        if kind == "student":
            w = torch.distributions.StudentT(2.0).sample((1, group)) * 0.02
        top = 2**bits - 1
        scale = top / (w.max() - w.min())
        zero = -w.min() * scale
        _, s, z = optimize_weights_proximal(w, scale.reshape(1, 1), zero.reshape(1, 1), [0, top], axis=1)
        cases.append({
            "weights": w.flatten().tolist(),
            "scale": (1.0 / scale).item(),
            "start": zero.item(),
            "top": top,
            "zero": z.item(),
        })
json.dump({"tool": "hqq 0.2.8.post1", "cases": cases}, open(sys.argv[1], "w"))
