"""Does any cast or quantisation read or write a byte outside its arrays?"""

import os
import signal

from guarded import NEEDS, run

import npukernels as nk

SCRIPT = "formats_guard_pages.py"
CASES = 6000 if os.environ.get("NPUSIM_SOAK") else 300

pytestmark = NEEDS


def test_no_cast_touches_a_page_before_or_after_its_arrays():
    done = run(SCRIPT, str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 6 * (len(nk.variants("cast")) - 1)


def test_a_planted_overrun_is_caught():
    assert run(SCRIPT, "plant").returncode == -signal.SIGSEGV
