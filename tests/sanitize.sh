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

# Python is built with -fwrapv and passes it on: what it makes defined is not checked.
checks="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-wrapv -fno-omit-frame-pointer -g1"
case $compiler in
  clang*)
    runtime=$("$compiler" -print-file-name=libclang_rt.asan-x86_64.so)
    # clang's runtime is static unless asked; the interpreter needs it shared, and it brings UBSan along.
    checks="$checks -shared-libasan -Wno-unused-command-line-argument"
    # Clones of loops by condition would multiply with the checks, which are conditions: minutes and minutes a file.
    checks="$checks -mllvm -unswitch-threshold=0 -mllvm -asan-instrumentation-with-call-threshold=0" ;;
  *) runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so)" ;;
esac
[ -e "${runtime%% *}" ] || { echo "skipped: the sanitizer runtime of $compiler is not installed"; exit 0; }

# Objects of an earlier run stay where their text and flags have not changed; the rest of the build is made anew.
rm -rf "$build/lib"
CC=$compiler CFLAGS=$checks LDFLAGS=$checks LDSHARED="$compiler -shared" NPUSIM_OPTIMISATION=$optimisation \
  "$python" tests/sanitized_build.py -q build --force --build-base "$build" --build-lib "$build/lib"
for library in "$build"/lib/npukernels/_{native,shortcut}*.so "$build"/lib/npusim/_sim*.so; do
  for runtime_call in '__asan_(report_)?load' __ubsan_handle; do
    grep -Eqa "$runtime_call" "$library" || { echo "$compiler built $library without $runtime_call"; exit 1; }
  done
done

export CC=$compiler CFLAGS=$checks  # for tests that compile kernels themselves
# Without the safe path the sources here, which have other extensions beside them, would come first; the tests of
# guard pages import each other in processes of their own; bench is only here.
export LD_PRELOAD=$runtime PYTHONPATH=$PWD/$build/lib:$PWD/tests/unit/kernels:$PWD PYTHONSAFEPATH=1 PYTHONMALLOC=malloc
# handle_segv=0: the guard page tests expect the signal. Python frees little at exit, hence no leak check.
export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
where=$("$python" -c 'import npukernels, npusim._sim as s; print(npukernels.native_available(), npukernels.__file__, s.__file__)')
case $where in "True $PWD/$build/"*" $PWD/$build/"*) ;; *) echo "not the sanitized build: $where"; exit 1 ;; esac
# Findings go to the descriptor that pytest would keep to itself and lose when the process ends.
run() { "$python" -m pytest -q -n 0 -p no:cacheprovider -p tests.thinned --capture=sys "$@"; }
if [ $# -gt 0 ]; then
  run "$@"
  exit
fi

# Every entry point in every variant, with a part of the shapes; numba makes no C.
export EVERY=${EVERY:-7}
# One process a file. What passed with the same sources, tests and flags is not run again: an interrupted run goes on.
state=$(find csrc npusim kernels tests bench -name '*.py' -o -path '*csrc*' -name '*.[ch]' -o -name '*.h' -o -name '*.sh' |
  LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
results=$build/results-$state
mkdir -p "$results"
failed=0
for file in tests/unit/kernels/test_*.py tests/unit/accuracy/test_host_*.py \
  tests/robust/test_{kernel,row,attention}_inputs.py tests/robust/test_case_files.py \
  tests/properties/test_{format_laws,tile_laws,cycle_laws,cycle_catalog,serving_laws}.py \
  tests/differential/test_{attention_naive,onnx_node_cases,tosa_conformance}.py \
  tests/differential/test_{cycle_oracle,cycle_schedules,dram_commands,dram_golden,systolic,gemmini_rtl}.py \
  tests/differential/test_{serving_oracle,step_times,step_sums}.py \
  tests/unit/test_{dram,tile_attention,attention_families,mapping,prefetch,replay}.py tests/unit/test_serving_*.py; do
  log=$results/$(echo "$file" | tr / -).log
  if [ ! -e "$log" ]; then
    if run -k "not numba and not promised" "$file" > "$log.part" 2>&1; then mv "$log.part" "$log"; else
      failed=1
      cat "$log.part"
    fi
  fi
  printf '%-55s %s\n' "$file" "$(tail -n 1 "$log" 2>/dev/null || echo FAILED)"
done
[ $failed = 0 ] && echo "$compiler: no finding"
exit $failed
