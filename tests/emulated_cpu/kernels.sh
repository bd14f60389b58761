# What an emulated CPU runs of the tests of the kernels: one fill of each, no soaks, guard pages at reduced counts.
# usage, inside the machine: sh tests/emulated_cpu/kernels.sh 'c-avx512 c-vnni'
export ONLY_VARIANTS="$1"
tests=tests/unit/kernels
# conftest.py imports the simulator, which takes half a minute here. Some tests need a compiler, onnx or other cores.
slow='adversarial or integer or realistic or threads or views or layout or every_fill or paged_cache or bad or same_bits'
absent='emulated or any_cpu or plain_c or onnx or promised'
names=$(echo "$1" | sed 's/c-//g; s/ / or /g')
status=0
run() { python -m pytest -p only_variants --noconftest -p no:cacheprovider -v --tb=short "$@" || status=1; }
guard() { python tests/emulated_cpu/only_variants.py $tests/"$@" || status=1; }
run $tests/test_gemm.py $tests/test_gemm_family.py $tests/test_qgemm.py $tests/test_probes.py $tests/test_weight_gemm.py \
  $tests/test_rows.py $tests/test_vmath.py $tests/test_casts.py $tests/test_cases_select.py \
  -k "($names) and not (ref or $slow or $absent)"
EVERY=5 run $tests/test_attention.py -k "not ($slow or $absent)"
run $tests/test_quantized.py -k "not ($slow or $absent)"
# A product in 8 bits without VNNI is that of AVX2; the reference has no shortcut.
ONLY_VARIANTS="$1 c-avx2" run $tests/test_shortcuts.py
run $tests/test_rows.py -k streams # 21 MB an operand: minutes
guard guard_pages.py 100
guard guard_pages.py family 40
guard guard_pages_quant.py 40
guard guard_rows.py 25
guard guard_shortcuts.py 5
guard attention_guard_pages.py 40
guard formats_guard_pages.py 40
exit $status
