"""Prints the results of gptqmodel_run.py as a Markdown table.

    python table.py results [--all]

One row per model, bits and group size: round-to-nearest, GPTQModel's default, and its best setting. ``--all``: every setting.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def cell(row: dict | None) -> str:
    if row is None or "kld" not in row:
        return "–"
    mark = "" if row["limit"] is None else f" (first {row['limit']} stories)"
    return f"{row['ppl']:.2f} / {row['kld']:.4f}{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    float_ppl = {r["model"]: r["ppl"] for r in json.loads((args.folder / "float.json").read_text())}
    files = [json.loads(p.read_text()) for p in args.folder.glob("*-w*g*.json")]
    files.sort(key=lambda rows: (rows[0]["model"], -rows[0]["group_size"], -rows[0]["bits"]))
    if not args.all:
        print("| model (float perplexity), bits, group | RTN symmetric | RTN affine | GPTQModel default | GPTQModel best | its setting |")
        print("|---|---|---|---|---|---|")
    for rows in files:
        first = rows[0]
        title = f"{first['model']} ({float_ppl[first['model']]:.2f}) w{first['bits']} g{first['group_size']}"
        by = {r["method"]: r for r in rows}
        if args.all:
            print(f"\n{title}, perplexity / KLD")
            for r in rows:
                print(f"  {r['method']:36} {r.get('error') or cell(r)}  {r['bpw'] or 0:.3f} bits, {r['cpu_seconds']:.0f} CPU s")
            continue
        peers = [r for r in rows if not r["method"].startswith("rtn") and r.get("limit", 0) is None]
        best = min(peers, key=lambda r: r["kld"], default=None)
        names = [cell(by.get(k)) for k in ("rtn-sym", "rtn-affine", "default")]
        print(f"| {title} | {' | '.join(names)} | {cell(best)} | {best['method'] if best else '–'} |")


if __name__ == "__main__":
    main()
