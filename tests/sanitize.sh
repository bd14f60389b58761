#!/usr/bin/env bash
# Builds the C code with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests of kernels and simulator
# under them. usage: tests/sanitize.sh gcc|clang [pytest arguments]; PYTHON names the interpreter, SANITIZE_OPT the
# optimisation (-O3, as shipped; -O1 for a quicker build). Any finding ends the run. The build is kept for
# the next run, so that tests can be run one file at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=${1:-gcc}
[ $# -eq 0 ] || shift
python=${PYTHON:-python3}
optimisation=${SANITIZE_OPT:--O3}
build=out/sanitize-$compiler$optimisation
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

# setuptools does not know the headers of a folder it did not list, nor flags: any change builds all anew.
sources=$(cat csrc/*.py csrc/*/*.[ch] "$0" | sha256sum)
[ "$(cat "$build/sources" 2>/dev/null)" = "$sources" ] || rm -rf "$build"
CC=$compiler CFLAGS=$checks LDFLAGS=$checks LDSHARED="$compiler -shared" NPUSIM_OPTIMISATION=$optimisation \
  "$python" setup.py -q build --build-base "$build" --build-lib "$build/lib"
for library in "$build"/lib/npukernels/_{native,shortcut}*.so "$build"/lib/npusim/_sim*.so; do
  for runtime_call in __asan_report_load __ubsan_handle; do
    grep -q "$runtime_call" "$library" || { echo "$compiler built $library without $runtime_call"; exit 1; }
  done
done
echo "$sources" > "$build/sources"

export CC=$compiler CFLAGS=$checks  # for tests that compile kernels themselves
# Without the safe path the sources here, which have other extensions beside them, would come first; the tests of
# guard pages import each other in processes of their own; bench is only here.
export LD_PRELOAD=$runtime PYTHONPATH=$PWD/$build/lib:$PWD/tests/unit/kernels:$PWD PYTHONSAFEPATH=1 PYTHONMALLOC=malloc
# handle_segv=0: the guard page tests expect the signal. Python frees little at exit, hence no leak check.
export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
where=$("$python" -c 'import npukernels, npusim._sim as s; print(npukernels.native_available(), npukernels.__file__, s.__file__)')
case $where in "True $PWD/$build/"*" $PWD/$build/"*) ;; *) echo "not the sanitized build: $where"; exit 1 ;; esac
if [ $# -eq 0 ]; then
  set -- tests/unit/kernels tests/robust/test_{kernel,row,attention}_inputs.py tests/unit/test_dram.py \
    tests/unit/test_serving_*.py tests/properties/test_{tile,cycle,serving}_*.py \
    tests/differential/test_{cycle,dram,serving}_*.py tests/differential/test_systolic.py
fi
# Findings go to the descriptor that pytest would keep to itself and lose when the process ends.
"$python" -m pytest -q -n 0 -p no:cacheprovider --capture=sys "$@"
