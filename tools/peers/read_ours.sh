#!/usr/bin/env bash
# Lets other tools read what fewbit writes: quantizes a small synthetic model by plain rounding into every container, has load_ours.py decode each with
# the reader code of GPTQModel, transformers and compressed-tensors, and keeps the CRC-32 of every decoded matrix as a golden file.
#
#   tools/peers/read_ours.sh WORK        (in an environment of tools/peers/README.md, from the repository's root)
set -euo pipefail
work=$1
here=$(dirname "$0")
mkdir -p "$work"
cargo build --release --quiet --example quantize --example synthesize
programs="${CARGO_TARGET_DIR:-target}/release/examples"
rm -rf "$work/model"
"$programs/synthesize" --shape tiny --out "$work/model" >/dev/null
for case in gptq-v1:4:32:symmetric gptq-v1:2:32:symmetric gptq-v1:8:64:symmetric gptq-v2:4:64:affine gptq-v2:3:32:symmetric \
  gptq-v2:2:64:affine compressed-tensors:4:64:symmetric compressed-tensors:4:32:affine compressed-tensors:8:channel:symmetric; do
  IFS=: read -r container bits group symmetry <<<"$case"
  out="$work/${case//:/-}"
  rm -rf "$out"
  flags=(--model "$work/model" --method rtn --no-eval --container "$container" --bits "$bits" --group-size "$group" --out "$out")
  [ "$symmetry" = affine ] || flags+=(--symmetric)
  "$programs/quantize" "${flags[@]}" >/dev/null
  python "$here/load_ours.py" "$out" >"$work/${case//:/-}.json"
  echo "$case read"
done
python - "$work" "$here/../../tests/golden/read-by-peers.json" <<'PY'
import json, sys
from pathlib import Path
cases = {}
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    cases[path.stem] = {name: module["crc32"] for name, module in json.loads(path.read_text())["modules"].items()}
Path(sys.argv[2]).parent.mkdir(exist_ok=True)
Path(sys.argv[2]).write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")
PY
