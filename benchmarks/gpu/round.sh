#!/usr/bin/env bash
# What needs a GPU, in one command of at most nine minutes.
#
#     benchmarks/gpu/round.sh [kernels]              the ops: checked, timed, counted, tuned, tested
#     benchmarks/gpu/round.sh train                  the training step: beside transformers, its parts, its tests
#     benchmarks/gpu/round.sh run GENOMES [TASKS]    RTD against MLM on a folder of genomes; then both encoders beside
#                                                    their controls on a folder of tasks
#
# Sections run in order of value. Each has a time limit; one that fails, or that its limit ends, does not stop those
# after it. Time that sections leave goes to the last ones. The round fails (status 1) if a section did.
#
# $OUT (runs/gpu_round by default) gets three files, written anew after each section and every ten seconds:
#
#     round.tsv     section, seconds, planned and actual limit, exit status (124 or 137: ended by its limit)
#     summary.md    the same, the machine, all tables so far and the ends of the logs of sections that failed
#     round.tgz     all tables, their JSON and every log: tar -xzf round.tgz -C benchmarks/results
#                   (ncu_*.csv: hardware counters; *.xml: tests; clocks.csv: the GPU's clock every two seconds)
#
# $WORK holds checkpoints and the installed packages: by default a temporary folder.
#
# The machine needs Python with torch, Triton and pytest, a C++ compiler, scikit-build-core and pybind11, and no
# network. What it lacks is taken from wheels/. To fill that folder for Python 3.12 on x86-64, with a network:
#
#     python3.12 -m pip wheel --no-deps -w wheels .        # nucel itself, if it cannot be built there
#     python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#         --platform manylinux_2_17_x86_64 -d wheels tyro typeguard docstring-parser isal
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
round=${1:-kernels}
genomes=${2:-} tasks=${3:-}
case $round in
kernels | train) ;;
run) [ -n "$genomes" ] || { echo "run: give a folder of genomes" >&2; exit 2; } ;;
*)
    echo "kernels, train or run, not $round" >&2
    exit 2
    ;;
esac

TOTAL=540 # seconds, of the ten minutes that one command may take
OUT=$(realpath -m "${OUT:-runs/gpu_round}")
WORK=$(realpath -m "${WORK:-$(mktemp -d)}")
RESULTS=$WORK/results PYTHON=${PYTHON:-python3}
rm -rf "$RESULTS"
mkdir -p "$OUT" "$RESULTS"
export RESULTS WORK PYTHON PYTHONUNBUFFERED=1 PYTHONPATH=$WORK/site${PYTHONPATH:+:$PYTHONPATH}
planned=0 saved=0 failures=0 job=
printf 'section\tseconds\tplanned_s\tlimit_s\texit_status\n' > "$RESULTS/round.tsv"

# ---- results ---------------------------------------------------------------------------------------------------------

summary() {
    local name seconds plan limit status file
    printf '# GPU round: %s\n\n' "$round"
    if [ -f "$RESULTS/environment.log" ]; then sed 's/^/    /' "$RESULTS/environment.log"; fi
    printf '\n| section | seconds | planned | limit | exit status |\n| --- | --- | --- | --- | --- |\n'
    while IFS=$'\t' read -r name seconds plan limit status; do
        [ "$name" = section ] || printf '| %s | %s | %s | %s | %s |\n' "$name" "$seconds" "$plan" "$limit" "$status"
    done < "$RESULTS/round.tsv"
    for file in "$RESULTS"/*.md; do
        if [ -f "$file" ]; then printf '\n## %s\n\n' "$(basename "$file" .md)" && cat "$file"; fi
    done
    while IFS=$'\t' read -r name seconds plan limit status; do
        case $status in
        exit_status | 0) ;;
        *) printf '\n## End of %s.log\n\n' "$name" && tail -n 15 "$RESULTS/$name.log" | cut -c 1-300 | sed 's/^/    /' ;;
        esac
    done < "$RESULTS/round.tsv"
}

# Each file replaces the one before in one step, so that a cut at any time leaves a whole one.
save() {
    saved=$SECONDS
    cp "$RESULTS/round.tsv" "$OUT/.new" && mv "$OUT/.new" "$OUT/round.tsv"
    summary > "$OUT/.new" 2> /dev/null && mv "$OUT/.new" "$OUT/summary.md"
    # Status 1: a file changed while tar read it.
    tar -czf "$OUT/.new" -C "$RESULTS" . 2> /dev/null || [ $? = 1 ] && mv "$OUT/.new" "$OUT/round.tgz"
}

stopped() {
    if [ -n "$job" ]; then kill "$job"; fi
    save
    exit 130
} 2> /dev/null
trap stopped INT TERM HUP

# section NAME LIMIT_S COMMAND...: its output goes to NAME.log, the last lines to the terminal. The limits of a round add
# up to less than TOTAL. A limit of the form 30+ grows by what the sections before have left.
section() {
    local name=$1 plan=${2%+} limit=${2%+} start=$SECONDS status
    if [ "$plan" != "$2" ] && ((planned > SECONDS)); then limit=$((limit + planned - SECONDS)); fi
    planned=$((planned + plan))
    if ((limit > TOTAL - SECONDS)); then limit=$((TOTAL - SECONDS)); fi
    shift 2
    : > "$RESULTS/$name.log"
    if ((limit < 5)); then
        status=no-time
    else
        timeout --kill-after=3 "$limit" "$@" > "$RESULTS/$name.log" 2>&1 &
        job=$!
        while kill -0 "$job" 2> /dev/null; do
            sleep 0.1
            if ((SECONDS - saved >= 10)); then save; fi
        done
        wait "$job"
        status=$? job=
    fi
    [ "$status" = 0 ] || failures=$((failures + 1))
    printf '%s\t%d\t%d\t%d\t%s\n' "$name" $((SECONDS - start)) "$plan" "$limit" "$status" | tee -a "$RESULTS/round.tsv"
    tail -n 3 "$RESULTS/$name.log" | cut -c 1-200 | sed 's/^/    /'
    save
}

# ---- sections --------------------------------------------------------------------------------------------------------

environment() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    "$PYTHON" -c 'import sys, torch, triton
print("Python", sys.version.split()[0], "torch", torch.__version__, "Triton", triton.__version__)'
    git rev-parse HEAD 2> /dev/null
}
into_site() {
    "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$WORK/site" "$@"
}
build() {
    # In the background, the first import of torch from a cold disk.
    environment > "$RESULTS/environment.log" 2>&1 &
    # One by one: a wheel of another Python would stop the rest. The build then replaces the wheel of nucel.
    for wheel in wheels/*.whl; do
        if [ -f "$wheel" ]; then into_site "$wheel" || echo "not installed: $wheel"; fi
    done
    into_site --no-build-isolation . || echo "not built: the wheel of nucel has to do, if there is one"
    wait
    "$PYTHON" -c 'import _nucel, nucel.kernels'
}
# pytest_with ARGUMENT...: as many processes, and as patient with one test, as the plug-ins there allow.
pytest_with() {
    local options=()
    "$PYTHON" -c 'import xdist' 2> /dev/null && options+=(-n 14)
    "$PYTHON" -c 'import pytest_timeout' 2> /dev/null && options+=(--timeout 60)
    "$PYTHON" -m pytest -v --continue-on-collection-errors "${options[@]}" "$@"
}
check() {
    # The kernels of training against the reference: bf16, heads of 32, rows of 512. One process.
    "$PYTHON" -m pytest -v --junitxml "$RESULTS/check.xml" tests/kernels/test_{attention,rtd_loss}_gpu.py \
        -k 'as_good_as_pytorch and bfloat16 and (D32 or C512)'
}
static_count() {
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
    "$PYTHON" -m benchmarks.gpu.static_count --json "$RESULTS/static_count.json" \
        --architectures "$([ "${capability%%.*}" = 9 ] && echo 90 || echo 80)"
}
counters() {
    if ! command -v ncu > /dev/null; then
        echo "skipped: ncu is not on the PATH"
        return
    fi
    local group status=0
    # One process for each: ncu writes its file when the program ends.
    for group in "global backward" "local backward" RTD; do
        ncu --csv --log-file "$RESULTS/ncu_${group/ /_}.csv" --clock-control none --kernel-name-base function \
            --kernel-name 'regex:^_(walk|rotate|loop|prepare|global|forward|backward|position|finish)' \
            --section SpeedOfLight --section WarpStateStats --section InstructionStats \
            --section MemoryWorkloadAnalysis "$PYTHON" -m benchmarks.gpu.kernel_times --once "$group" || status=1
    done
    return "$status"
}
tests() {
    pytest_with --junitxml "$RESULTS/tests.xml" tests/kernels/test_{attention,rtd_loss}_{gpu,triton}.py
}
memory_checker() {
    if ! command -v compute-sanitizer > /dev/null; then
        echo "skipped: compute-sanitizer is not on the PATH"
        return
    fi
    # The smallest case of each kernel that GPUs run in training; caching would hide accesses beyond an allocation.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
        "$PYTHON" -m pytest -v tests/kernels/test_{attention,rtd_loss}_gpu.py \
        -k 'test_every_kernel and bfloat16 and (D32- or C100- or C512-)'
}
step_tests() {
    # tests/pretraining imports the command line's packages; a missing one must not stop the kernels' tests.
    pytest_with --junitxml "$RESULTS/step_tests.xml" tests/pretraining/test_{train_gpu,step,cost}.py
}
# gather: what a run and the suite have written, among the results, without checkpoints.
gather() {
    local file
    for file in run/{summary.json,curves.png,electra/metrics.jsonl,mlm/metrics.jsonl} tasks/table.{md,tsv}; do
        if [ -f "$WORK/$file" ]; then cp "$WORK/$file" "$RESULTS/${file//\//-}"; fi
    done
}
# gathering COMMAND...: gathers as the command writes, since its limit may end it.
gathering() {
    while sleep 5; do gather; done &
    local status gatherer=$!
    "$@"
    status=$?
    kill "$gatherer"
    gather
    return "$status"
}
export -f build check counters environment into_site gather gathering memory_checker pytest_with static_count \
    step_tests tests

# The clock that the times were taken at; bounds assume one.
nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv --loop=2 \
    > "$RESULTS/clocks.csv" 2> /dev/null &
clocks=$!
trap 'kill "$clocks" 2> /dev/null' EXIT

section build 75 bash -c build
case $round in
kernels)
    section check 40 bash -c check
    section static_count 32 bash -c static_count
    section kernel_times 30 "$PYTHON" -m benchmarks.gpu.kernel_times --out "$RESULTS" \
        --bounds "$RESULTS/static_count.json"
    section counters 60 bash -c counters
    section tiles 70 "$PYTHON" -m benchmarks.gpu.tune_tiles --widths 32 --seconds 60
    section rtd_loss 20 "$PYTHON" -m benchmarks.bench_rtd_loss --out "$RESULTS" --seconds 15
    section attention 65 "$PYTHON" -m benchmarks.bench_attention --out "$RESULTS" --seconds 55
    section tests 105+ bash -c tests
    section memory_checker 40+ bash -c memory_checker
    ;;
train)
    section train 200 "$PYTHON" -m benchmarks.bench_train --out "$RESULTS" --seconds 160
    section profile 150 "$PYTHON" -m benchmarks.gpu.profile_step --out "$RESULTS"
    section step_tests 100+ bash -c step_tests
    ;;
run)
    limit=455 minutes=3.2
    if [ -n "$tasks" ]; then limit=285 minutes=1.8; fi
    section run "$limit" bash -c 'gathering "$@"' run "$PYTHON" -m benchmarks.experiments.real_run "$genomes" \
        --out "$WORK/run" --minutes "$minutes"
    if [ -n "$tasks" ]; then
        section tasks 170+ bash -c 'gathering "$@"' tasks "$PYTHON" -m nucel.suite "$tasks" --out "$WORK/tasks" \
            --lr 1e-4 --models "pretrained=$WORK/run/electra" "mlm=$WORK/run/mlm"
    fi
    ;;
esac
((failures == 0))
