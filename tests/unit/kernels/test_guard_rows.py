"""Does any op on rows or elements read or write a byte outside its operands?"""

import os
import signal

from guarded import NEEDS, run

import npukernels as nk

SCRIPT = "guard_rows.py"
CASES = 1500 if os.environ.get("NPUSIM_SOAK") else 100

pytestmark = NEEDS


def test_no_op_touches_a_page_before_or_after_its_operands():
    done = run(SCRIPT, str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 15 * (len(nk.variants("silu")) - 1)


def test_a_planted_overrun_is_caught():
    assert run(SCRIPT, "plant").returncode == -signal.SIGSEGV
