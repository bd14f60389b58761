"""Does any quantised kernel read or write a byte outside its operands?"""

import os

from guarded import NEEDS, run

SCRIPT = "guard_pages_quant.py"
CASES = 2000 if os.environ.get("NPUSIM_SOAK") else 60

pytestmark = NEEDS


def test_no_kernel_touches_a_page_before_or_after_its_operands():
    done = run(SCRIPT, str(CASES))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= CASES * 2 * 5
