#!/usr/bin/env bash
# Everything that needs a GPU, in one go: tools/gpu_check.sh BUILD_DIR [OUT_DIR]
#
# BUILD_DIR: a build of the preset `cuda` (it may have been made on another machine). Runs the conformance suite,
# the ops against their CPU twins and the engine; then the ops under memcheck and racecheck where compute-sanitizer
# is installed. tests_py/test_cuda.py is apart, since it needs the Python module. Logs go to OUT_DIR; the last lines
# say what passed. Exit code 1 if anything failed or there is no GPU.
set -uo pipefail
build=${1:?which build directory?}
out=${2:-$build/gpu_check}
mkdir -p "$out"
failed=0

# step NAME COMMAND...
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$out/$name.log" 2>&1; then
    echo "passed  $name  ($((SECONDS - start)) s)"
  else
    echo "FAILED  $name  ($((SECONDS - start)) s): see $out/$name.log"
    grep -E "FAILED|error|Failure" "$out/$name.log" | head -n 20
    failed=1
  fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || { echo "no GPU here"; exit 1; }
step device "$build/tests_cpp/test_device" '--gtest_filter=*Cuda*'
step ops "$build/tests_cpp/test_ops" '--gtest_filter=Cuda*'
step engine "$build/tests_cpp/test_exec" '--gtest_filter=Cuda*'
if command -v compute-sanitizer >/dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 1 \
    --kernel-name-exclude kernel_substring=hold_kernel "$build/tests_cpp/test_ops" '--gtest_filter=Cuda*'
  # FlashInfer's Hopper kernels compute wrong values while racecheck instruments them.
  step racecheck compute-sanitizer --tool racecheck --error-exitcode 1 \
    --kernel-name-exclude kernel_substring=hold_kernel,kernel_substring=PrefillWithKVCache \
    "$build/tests_cpp/test_ops" '--gtest_filter=Cuda*'
fi
# Tests of kernels that a build may lack say so. Any other skip means that the GPU was not used.
if grep -h -A1 ": Skipped" "$out"/*.log | grep -vqE '^--|: Skipped|this build has no'; then
  echo "FAILED  tests were skipped: no GPU could be used"
  failed=1
fi
exit $failed
