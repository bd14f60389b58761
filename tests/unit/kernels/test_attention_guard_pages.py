"""Does attention read or write a byte outside its operands?"""

import os
import signal

from guarded import NEEDS, run

import npukernels as nk

SCRIPT = "attention_guard_pages.py"
CASES = 8000 if os.environ.get("NPUSIM_SOAK") else 150

pytestmark = NEEDS


def test_attention_touches_no_page_before_or_after_its_operands():
    done = run(SCRIPT, str(CASES))

    assert done.returncode == 0, done.stderr
    native = [v for v in nk.variants("attention") if v.startswith("c-")]
    assert int(done.stdout) == CASES * 4 * len(native)


def test_a_planted_overrun_is_caught():
    assert run(SCRIPT, "plant").returncode == -signal.SIGSEGV
