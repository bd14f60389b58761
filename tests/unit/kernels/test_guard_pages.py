"""Does any kernel read or write a byte outside its operands?"""

import os
import signal

from guarded import NEEDS, run

import npukernels as nk

SCRIPT = "guard_pages.py"
CASES = 2000 if os.environ.get("NPUSIM_SOAK") else 60

pytestmark = NEEDS


def test_no_kernel_touches_a_page_before_or_after_its_operands():
    done = run(SCRIPT, str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 4 * (len(nk.variants("gemm")) - 1)


def test_nor_does_any_other_of_the_family():
    done = run(SCRIPT, "family", str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 11 * len([v for v in nk.variants("gemm") if v.startswith("c-")])


def test_nor_do_long_rows_of_few_against_contiguous_columns():
    done = run(SCRIPT, "long", "20")

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2 * 4 * 20 * 2 * len([v for v in nk.variants("gemm") if v.startswith("c-")])


def test_a_planted_overrun_is_caught():
    assert run(SCRIPT, "plant").returncode == -signal.SIGSEGV
