#!/usr/bin/env bash
# Everything that needs a GPU, in one command and within ten minutes: build, tests, memory checker, benchmarks, tiles.
#
#     benchmarks/gpu/round.sh [kernels]      the ops alone
#     benchmarks/gpu/round.sh train          the training step: tests, profile, beside transformers
#     benchmarks/gpu/round.sh run FOLDER     RTD against MLM on a folder of genomes, three and a half minutes each
#     benchmarks/gpu/round.sh tasks FOLDER   that round's two encoders beside their controls, on a folder of tasks
#
# Needs no network: Python packages that are missing are taken from wheels/, if there is such a folder. Every section
# has a time limit of its own; one that fails does not stop those after it.
#
# The results are at most eight files in $OUT (benchmarks/results by default), and are complete after each section:
#
#     round.tsv, round.log                   how each section ended; what each printed, at most its last megabyte
#     kernels                                attention.md, attention.json, rtd_loss.md, rtd_loss.json, tiles.txt
#     train                                  profile.md, profile.json, train.md, train.json
#     run                                    summary.json, curves.png, electra.jsonl, mlm.jsonl (metrics)
#     tasks                                  table.md, table.tsv
#
# Runs, with their checkpoints, and single results of tasks stay in $WORK (runs/gpu_round by default).
set -uo pipefail
cd "$(dirname "$0")/../.."
round=${1:-kernels}
case $round in
kernels | train) ;;
run | tasks) folder=${2:?give a folder} ;;
*)
    echo "kernels, train, run or tasks, not $round" >&2
    exit 2
    ;;
esac
OUT=$(realpath -m "${OUT:-benchmarks/results}")
WORK=$(realpath -m "${WORK:-runs/gpu_round}")
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" "$WORK"
printf 'section\tseconds\texit_status\n' > "$OUT/round.tsv"
: > "$OUT/round.log"

# section NAME LIMIT_S COMMAND...: its output goes to round.log, its last lines to the terminal.
section() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    timeout --kill-after=5 "$limit" "$@" > "$WORK/$name.log" 2>&1
    status=$?
    printf '%s\t%d\t%d\n' "$name" $((SECONDS - start)) "$status" | tee -a "$OUT/round.tsv"
    { printf '==== %s ====\n' "$name" && tail -c 1M "$WORK/$name.log"; } >> "$OUT/round.log"
    tail -n 3 "$WORK/$name.log" | sed 's/^/    /'
}

# keep FILE NAME: a file of $WORK among the results, if a section has written it.
keep() {
    if [ -f "$WORK/$1" ]; then cp "$WORK/$1" "$OUT/$2"; fi
}

environment() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
    "$PYTHON" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
    git rev-parse HEAD 2> /dev/null
}
build() {
    [ -d wheels ] && "$PYTHON" -m pip install --quiet --no-index --find-links wheels --no-deps wheels/*.whl
    "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps .
}
tests() {
    local parallel=()
    "$PYTHON" -c 'import xdist' 2> /dev/null && parallel=(-n 8)
    "$PYTHON" -m pytest -q "${parallel[@]}" tests/kernels/test_{attention,rtd_loss}_{gpu,triton}.py
}
memory_checker() {
    # The smallest case of each kernel that GPUs run in training; caching would hide accesses beyond an allocation.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
        "$PYTHON" -m pytest -q tests/kernels -k 'test_every_kernel and bfloat16 and (D32- or C100- or C512-)'
}
step_tests() {
    "$PYTHON" -m pytest -q tests/pretraining/test_{train_gpu,step,cost}.py
}
export PYTHON
export -f build environment memory_checker step_tests tests

section environment 20 bash -c environment
section build 90 bash -c build
case $round in
kernels)
    section tests 170 bash -c tests
    section attention 170 "$PYTHON" -m benchmarks.bench_attention --out "$OUT" --seconds 140
    section rtd_loss 30 "$PYTHON" -m benchmarks.bench_rtd_loss --out "$OUT" --seconds 20
    section memory_checker 60 bash -c memory_checker
    section tiles 60 "$PYTHON" -m benchmarks.gpu.tune_tiles --widths 32 --seconds 45
    keep tiles.log tiles.txt
    ;;
train)
    section step_tests 90 bash -c step_tests
    section profile 80 "$PYTHON" -m benchmarks.gpu.profile_step --out "$OUT"
    section train 330 "$PYTHON" -m benchmarks.bench_train --out "$OUT" --seconds 240
    ;;
run)
    section run 560 "$PYTHON" -m benchmarks.experiments.real_run "$folder" --out "$WORK/run" --minutes 3.5
    keep run/summary.json summary.json
    keep run/curves.png curves.png
    keep run/electra/metrics.jsonl electra.jsonl
    keep run/mlm/metrics.jsonl mlm.jsonl
    ;;
tasks)
    section tasks 560 "$PYTHON" -m nucel.suite "$folder" --out "$WORK/tasks" --lr 1e-4 \
        --models "pretrained=$WORK/run/electra" "mlm=$WORK/run/mlm"
    keep tasks/table.md table.md
    keep tasks/table.tsv table.tsv
    ;;
esac
