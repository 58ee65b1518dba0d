#!/bin/sh
# Makes the embedded demo model again, from nothing but this repository: text, tokenizer, weights.
#
#   python3 -m venv .venv && . .venv/bin/activate && pip install -r tools/make-demo/requirements.txt
#   tools/make-demo/make-demo.sh [WORK_DIR]
#
# Everything between goes to WORK_DIR (default: target/make-demo); interrupted, it goes on where it was.
# The result replaces crates/demo/model/. STEPS and DECAY are those of the embedded model.
set -eu
STEPS=${STEPS:-@STEPS@}
DECAY=${DECAY:-@DECAY@}

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${1:-$root/target/make-demo}
mkdir -p "$work/model"
cd "$root"

corpus() { cargo run --quiet --release -p fewbit-demo --example corpus -- "$@"; }
[ -s "$work/train.txt" ] || { corpus train 30000000 > "$work/train.new" && mv "$work/train.new" "$work/train.txt"; }
corpus validation 500000 > "$work/validation.txt"

[ -s "$work/model/tokenizer_config.json" ] || python3 "$here/tokenizer.py" "$work/train.txt" "$work/model"
python3 "$here/train.py" "$work/train.txt" "$work/model" "$work/model" \
    --steps "$STEPS" --decay "$DECAY" --state "$work/state.pt"
python3 "$here/check.py" "$work/model" "$work/validation.txt"

mkdir -p crates/demo/model
cp "$work/model/config.json" "$work/model/generation_config.json" "$work/model/model.safetensors" \
    "$work/model/tokenizer.json" "$work/model/tokenizer_config.json" crates/demo/model/
echo "written: crates/demo/model"
