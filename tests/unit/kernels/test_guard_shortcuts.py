"""Does a call by a shortcut read or write a byte outside its operands?"""

import os

from guarded import NEEDS, run

CASES = 2000 if os.environ.get("NPUSIM_SOAK") else 40

pytestmark = NEEDS


def test_no_repeated_call_touches_a_page_before_or_after_its_operands():
    done = run("guard_shortcuts.py", str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == CASES * 2 * 12
