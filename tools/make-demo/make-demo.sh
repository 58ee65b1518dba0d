#!/bin/sh
# Makes the embedded demo model again, from nothing but this repository: text, tokenizer, weights.
#
#   python3 -m venv .venv && . .venv/bin/activate && pip install -r tools/make-demo/requirements.txt
#   tools/make-demo/make-demo.sh [WORK_DIR]
#
# Everything between goes to WORK_DIR (default: target/make-demo); interrupted, it goes on where it was.
# The result replaces crates/demo/model/.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${1:-$root/target/make-demo}
mkdir -p "$work/model"
cd "$root"

corpus() { cargo run --quiet --release -p fewbit-demo --example corpus -- "$@"; }
[ -s "$work/train.txt" ] || { corpus train 30000000 > "$work/train.new" && mv "$work/train.new" "$work/train.txt"; }
corpus validation 500000 > "$work/validation.txt"

[ -s "$work/model/tokenizer_config.json" ] || python3 "$here/tokenizer.py" "$work/train.txt" "$work/model"
# Two cycles of the learning rate: the second starts from what the first has reached.
train() {
    python3 "$here/train.py" "$work/train.txt" "$work/model" "$work/model" \
        --steps "$1" --decay "$2" --state "$work/state.pt"
}
train 1100 500
train 2000 900
python3 "$here/check.py" "$work/model" "$work/validation.txt"

mkdir -p crates/demo/model
cp "$work/model/config.json" "$work/model/generation_config.json" "$work/model/model.safetensors" \
    "$work/model/tokenizer.json" "$work/model/tokenizer_config.json" crates/demo/model/
echo "written: crates/demo/model"
