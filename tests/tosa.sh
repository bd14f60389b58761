#!/usr/bin/env bash
# Generates tests by the TOSA conformance generator, lets TOSA's reference model compute what they expect, and runs our
# kernels against it. usage: tests/tosa.sh FOLDER [pytest arguments]; PYTHON names the interpreter that has npukernels,
# TOSA the environment with the generator, which pins older packages than ours:
#   python3 -m venv TOSA && TOSA/bin/pip install tosa-tools
# What the folder already holds is kept, so that an interrupted run goes on.
set -euo pipefail
folder=$(realpath -m "${1:?usage: tests/tosa.sh FOLDER [pytest arguments]}")
shift
export PATH=${TOSA:+$(realpath "$TOSA")/bin:}$PATH
command -v tosa_verif_conformance_generator >/dev/null || {
  echo "skipped: no tosa_verif_conformance_generator; see the head of $0"
  exit 0
}
cd "$(dirname "$0")/.."

generate() { # NAME OPERATORS -- EXTENSIONS: operators of all profiles, in FOLDER/built/NAME
  name=$1 operators=()
  shift
  while [ "$1" != -- ]; do operators+=("$1") && shift; done
  shift
  [ ! -e "$folder/json/$name/done" ] || return 0
  rm -rf "${folder:?}"/{built,json}/"$name"
  tosa_verif_conformance_generator --operators "${operators[@]}" --profile all --extension "$@" --test-type positive \
    --build-directory "$folder/built/$name" --output-directory "$folder/json/$name" --keep-build-dir
  touch "$folder/json/$name/done"
}
generate base matmul cast rescale -- none
generate narrow matmul cast -- tosa-ext-bf16 tosa-ext-fp8e4m3 tosa-ext-fp8e5m2
generate blocks matmul_t_block_scaled cast_to_block_scaled cast_from_block_scaled -- \
  tosa-ext-mx-{common,fp4e2m1,fp6e2m3,fp6e3m2,fp8e4m3,fp8e5m2,int8}

# The conformance generator picks some of the tests that it builds: those are in json, operands in built.
find "$folder/json/" -name test.json | while read -r json; do
  for built in "$folder"/built/*/*/*/*/*/"$(basename "$(dirname "$json")")"; do
    [ -e "$built/desc.json" ] || continue
    cp "$json" "$built/test.json"
    ls "$built"/*result* >/dev/null 2>&1 || (cd "$built" && tosa_reference_model --test_desc=desc.json)
  done
done
NPUSIM_TOSA=$folder/built "${PYTHON:-python3}" -m pytest -q -n 0 -rs tests/differential/test_tosa_conformance.py "$@"
