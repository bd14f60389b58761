#!/usr/bin/env bash
# Builds the C code at -O3 with AddressSanitizer and UndefinedBehaviorSanitizer and runs the kernel tests under them.
# usage: tests/sanitize.sh gcc|clang [pytest arguments]; PYTHON names the interpreter. Any finding ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=${1:-gcc}
[ $# -eq 0 ] || shift
python=${PYTHON:-python3}
build=out/sanitize-$compiler
command -v "$compiler" >/dev/null || { echo "skipped: $compiler is not installed"; exit 0; }

checks="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
case $compiler in
  clang*)
    runtime=$("$compiler" -print-file-name=libclang_rt.asan-x86_64.so)
    # clang's runtime is static unless asked; the interpreter needs it shared, and it brings UBSan along.
    checks="$checks -shared-libasan" ;;
  *) runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so)" ;;
esac
[ -e "${runtime%% *}" ] || { echo "skipped: the sanitizer runtime of $compiler is not installed"; exit 0; }

rm -rf "$build"
CC=$compiler CFLAGS=$checks LDFLAGS=$checks LDSHARED="$compiler -shared" \
  "$python" setup.py -q build --build-base "$build" --build-lib "$build/lib"
for runtime_call in __asan_report_load __ubsan_handle; do
  grep -q "$runtime_call" "$build"/lib/npukernels/_native*.so || { echo "$compiler built without $runtime_call"; exit 1; }
done
export CC=$compiler CFLAGS=$checks  # for tests that compile kernels themselves
export LD_PRELOAD=$runtime PYTHONPATH=$PWD/$build/lib PYTHONSAFEPATH=1 PYTHONMALLOC=malloc
# handle_segv=0: the guard page tests expect the signal. Python frees little at exit, hence no leak check.
export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
where=$("$python" -c 'import npukernels; print(npukernels.native_available(), npukernels.__file__)')
case $where in "True $PWD/$build/"*) ;; *) echo "not the sanitized build: $where"; exit 1 ;; esac
[ $# -gt 0 ] || set -- tests/unit/kernels tests/robust/test_kernel_inputs.py
"$python" -m pytest -q -n 0 -p no:cacheprovider "$@"
