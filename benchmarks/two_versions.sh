#!/usr/bin/env bash
# The tests of the kernels, and the static count, under both pairs of versions that NucEL supports.
#
#     benchmarks/two_versions.sh [PYTEST OPTIONS...]      for example -m "not slow"
#
# Pairs: torch 2.11 with Triton 3.6 (and NumPy < 2.4: the interpreter of Triton 3.6 needs it), torch 2.13 with Triton
# 3.7. Each gets a virtual environment in $ENVIRONMENTS (build/environments by default), made once: 5 GB where pip's
# index has torch with CUDA. Counts go there too, as count-3.6.0.json and count-3.7.1.json. The exit status is that of
# the last failure.
set -uo pipefail
cd "$(dirname "$0")/.."
ENVIRONMENTS=$(realpath -m "${ENVIRONMENTS:-build/environments}")
PYTHON=${PYTHON:-python3}
status=0

# pair TORCH TRITON NUMPY [PYTEST OPTIONS...]
pair() {
    local torch=$1 triton=$2 numpy=$3 environment="$ENVIRONMENTS/triton-$2"
    shift 3
    if [ ! -f "$environment/complete" ]; then
        "$PYTHON" -m venv --clear "$environment" || return
        # The tests run the checkout's Python files, so that only the compiled sampler must stay installed.
        "$environment/bin/pip" install --quiet "torch==$torch" "triton==$triton" "$numpy" ".[test]" || return
        rm -r "$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nucel" || return
        touch "$environment/complete"
    fi
    echo "==== torch $torch, Triton $triton"
    "$environment/bin/python" -m benchmarks.gpu.static_count --json "$ENVIRONMENTS/count-$triton.json" || status=$?
    NUCEL_COMPILE_ALL=1 "$environment/bin/python" -m pytest -n 2 tests/kernels "$@" || status=$?
}

pair 2.11.0 3.6.0 'numpy<2.4' "$@" || status=$?
pair 2.13.0 3.7.1 numpy "$@" || status=$?
exit "$status"
