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
# Two threads, which sleep while they wait: one that other work holds up would stop the other.
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
# The learning rate begins to fall at step 1800, slowly at first, and from step 2400 on such that it is down at 3000.
train() {
    python3 "$here/train.py" "$work/train.txt" "$work/validation.txt" "$work/model" "$work/model" \
        --state "$work/state.pt" "$@"
}
train --steps 4000 --decay 2200 --until 2400
train --steps 3000 --decay 825
python3 "$here/check.py" "$work/model" "$work/validation.txt"

mkdir -p crates/demo/model
cp "$work/model/config.json" "$work/model/generation_config.json" "$work/model/model.safetensors" \
    "$work/model/tokenizer.json" "$work/model/tokenizer_config.json" crates/demo/model/
echo "written: crates/demo/model"
