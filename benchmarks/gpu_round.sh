#!/usr/bin/env bash
# Everything that needs a GPU, in one command and within ten minutes: build, tests, memory checker, benchmarks, tiles.
#
#     benchmarks/gpu_round.sh [kernels]      the ops alone; results in $OUT, or in benchmarks/results
#     benchmarks/gpu_round.sh train          the training step: tests, profile, beside transformers
#     benchmarks/gpu_round.sh run FOLDER     RTD against MLM on a folder of genomes, three and a half minutes each
#     benchmarks/gpu_round.sh tasks FOLDER   that round's two encoders beside their controls, on a folder of tasks
#
# Needs no network: Python packages that are missing are taken from wheels/, if there is such a folder. Every section
# has a time limit of its own and leaves a log; one that fails does not stop those after it. round.tsv says how each
# ended, attention.md, rtd_loss.md, train.md and profile.md (and .json) hold the tables, run/ the real runs.
set -uo pipefail
cd "$(dirname "$0")/.."
case ${1:-kernels} in
kernels | train | run | tasks) ;;
*)
    echo "kernels, train, run or tasks, not $1" >&2
    exit 2
    ;;
esac
OUT=$(realpath -m "${OUT:-benchmarks/results}")
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
printf 'section\tseconds\texit_status\n' > "$OUT/round.tsv"

# section NAME LIMIT_S COMMAND...: its output goes to NAME.log, its last lines to the terminal.
section() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    timeout --kill-after=5 "$limit" "$@" > "$OUT/$name.log" 2>&1
    status=$?
    printf '%s\t%d\t%d\n' "$name" $((SECONDS - start)) "$status" | tee -a "$OUT/round.tsv"
    tail -n 3 "$OUT/$name.log" | sed 's/^/    /'
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
    "$PYTHON" -m pytest -q "${parallel[@]}" tests/gpu tests/kernels/test_{attention,rtd_loss}_{gpu,triton}.py
}
memory_checker() {
    # The smallest case of each kernel that GPUs run in training; caching would hide accesses beyond an allocation.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
        "$PYTHON" -m pytest -q tests/kernels -k 'test_every_kernel and bfloat16 and (D32- or C100- or C512-)'
}
step_tests() {
    "$PYTHON" -m pytest -q tests/gpu/test_train_gpu.py tests/unit/test_step.py tests/unit/test_cost.py
}
export PYTHON
export -f build environment memory_checker step_tests tests

section environment 20 bash -c environment
section build 90 bash -c build
case ${1:-kernels} in
kernels)
    section tests 170 bash -c tests
    section attention 170 "$PYTHON" benchmarks/bench_attention.py --out "$OUT" --seconds 140
    section rtd_loss 30 "$PYTHON" benchmarks/bench_rtd_loss.py --out "$OUT" --seconds 20
    section memory_checker 60 bash -c memory_checker
    section tiles 60 "$PYTHON" benchmarks/tune_tiles.py --widths 32 --seconds 45
    ;;
train)
    section step_tests 90 bash -c step_tests
    section profile 80 "$PYTHON" benchmarks/profile_step.py --out "$OUT"
    section train 330 "$PYTHON" benchmarks/bench_train.py --out "$OUT" --seconds 240
    ;;
run)
    section run 560 "$PYTHON" benchmarks/real_run.py "${2:?give a folder of genomes}" --out "$OUT/run" --minutes 3.5
    ;;
tasks)
    section tasks 560 "$PYTHON" -m nucel.suite "${2:?give a folder of tasks}" --out "$OUT/tasks" --lr 1e-4 \
        --models "pretrained=$OUT/run/electra" "mlm=$OUT/run/mlm"
    ;;
esac
