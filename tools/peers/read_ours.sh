#!/usr/bin/env bash
# Lets other tools read what fewbit writes: quantizes a small synthetic model by plain rounding into every container and grid, has load_ours.py decode
# each with the reader code of GPTQModel, AutoAWQ, transformers, compressed-tensors and bitsandbytes, mlx_files.py with that of MLX, and keeps the CRC-32 of every decoded matrix as a
# golden file.
#
#   tools/peers/read_ours.sh WORK [PROGRAMS]   (in an environment of tools/peers/README.md, from the repository's root; PROGRAMS: built examples)
set -euo pipefail
work=$1
here=$(dirname "$0")
mkdir -p "$work"
programs=${2:-}
if [ -z "$programs" ]; then
  cargo build --release --quiet --example quantize --example synthesize
  programs="${CARGO_TARGET_DIR:-target}/release/examples"
fi
rm -rf "$work/model"
"$programs/synthesize" --shape tiny --out "$work/model" >/dev/null
# container:grid
cases=(
  gptq-v1:int4-g32-sym gptq-v1:int2-g32-sym gptq-v1:int8-g64-sym gptq-v2:int4-g64 gptq-v2:int3-g32-sym gptq-v2:int2-g64
  awq:int4-g32 awq:int4-g64-sym awq:int4-channel
  compressed-tensors:int4-g64-sym compressed-tensors:int4-g32 compressed-tensors:int8-channel-sym
  compressed-tensors-bytes:int8-channel-sym compressed-tensors-bytes:int8-tensor-sym compressed-tensors-bytes:int4-g32
  compressed-tensors-naive:int8-channel-sym compressed-tensors-naive:fp8-channel
  compressed-tensors:fp8-tensor compressed-tensors:fp8-channel compressed-tensors:fp8-g64 compressed-tensors:nvfp4 compressed-tensors:mxfp4
  bitsandbytes:nf4 bitsandbytes:nf4-double bitsandbytes:fp4 bitsandbytes:fp4-double bitsandbytes:llm-int8
  mlx:int2-g32-offset mlx:int3-g64-offset mlx:int4-g64-offset mlx:int5-g32-offset mlx:int6-g64-offset mlx:int8-g64-offset mlx:mxfp4
)
for case in "${cases[@]}"; do
  out="$work/$case"
  rm -rf "$out" "$out.json"
  "$programs/quantize" --model "$work/model" --method rtn --no-eval --container "${case%%:*}" --grid "${case#*:}" --out "$out" >/dev/null
done
# A process for each tool: they patch transformers for the rest of theirs.
for tool in gptq awq compressed-tensors bitsandbytes; do
  python "$here/load_ours.py" "$work/$tool"*:*/ --reports "$work"
  echo "$tool read"
done
# Its own environment: MLX_PYTHON.
"${MLX_PYTHON:-python}" "$here/mlx_files.py" read "$work"/mlx:*/ --reports "$work"
echo "mlx read"
python - "$work" "$here/../../tests/golden/read-by-peers.json" "${cases[@]}" <<'PY'
import json, sys
from pathlib import Path
work, golden, *names = sys.argv[1:]
cases = {}
for name in names:
    report = json.loads((Path(work) / f"{name}.json").read_text())
    cases[name] = {module: decoded["crc32"] for module, decoded in report["modules"].items()}
Path(golden).parent.mkdir(exist_ok=True)
Path(golden).write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")
PY
