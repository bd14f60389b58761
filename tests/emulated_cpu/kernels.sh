# What an emulated CPU runs of the tests of the kernels: one fill of each, no soaks, guard pages at reduced counts.
# usage, inside the machine: sh tests/emulated_cpu/kernels.sh 'c-avx512 c-vnni' [EVERY [GUARD]]
# EVERY: one shape, length or float of so many in the tests' lists; GUARD: guard page cases, in twentieths.
export ONLY_VARIANTS="$1" EVERY="${2:-11}"
guards=${3:-20}
tests=tests/unit/kernels
# conftest.py imports the simulator, which takes half a minute here. Some tests need a compiler, onnx or other cores.
slow='adversarial or integer or realistic or threads or views or layout or every_fill or paged_cache or bad or same_bits'
absent='emulated or any_cpu or plain_c or onnx or promised'
names=$(echo "$1" | sed 's/c-//g; s/ / or /g')
status=0
stage() { echo "--- $(cut -d. -f1 /proc/uptime) s of the machine: $*"; }
run() { stage "$1"; python -m pytest -p only_variants -p tests.thinned --noconftest -p no:cacheprovider -v --color=no --tb=short --durations=5 "$@" || status=1; }
guard() { stage "$*"; python tests/emulated_cpu/only_variants.py $tests/"$@" || status=1; }
run $tests/test_casts.py $tests/test_cases_select.py $tests/test_qgemm.py $tests/test_weight_gemm.py $tests/test_gemm.py \
  $tests/test_gemm_family.py $tests/test_probes.py $tests/test_rows.py $tests/test_rows_fall_back.py $tests/test_vmath.py \
  -k "($names) and not (ref or $slow or $absent)"
# These take the variants from the registry, so that no name tells them apart.
run $tests/test_attention.py $tests/test_quantized.py -k "not ($slow or $absent)"
# A product in 8 bits without VNNI is that of AVX2; the reference has no shortcut.
ONLY_VARIANTS="$1 c-avx2" run $tests/test_shortcuts.py
guard guard_pages.py $((guards * 5))
guard guard_pages.py family $((guards * 2))
guard guard_pages_quant.py $((guards * 2))
guard guard_rows.py "$guards"
guard guard_shortcuts.py 3
guard attention_guard_pages.py $((guards * 2))
guard formats_guard_pages.py $((guards * 2))
run $tests/test_rows.py -k streams # 21 MB an operand
stage end
exit $status
