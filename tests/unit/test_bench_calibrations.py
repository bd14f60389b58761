"""Do the commands that fit the catalog again cover it, and give back what is committed?"""

from pathlib import Path

import pytest

from bench import calibrations
from npusim import calibration
from npusim.cost.calibrated.family import family


def test_every_data_set_of_the_catalog_has_a_command():
    named = {file.partition("/")[0] for what in calibrations.DATASETS.values() for file in files_of(what)}
    known = [calibration.load_calibration(path) for path in calibration.catalog().values()]
    used = {part.partition("/")[0] for document in known for part in document.source.dataset.split(", ")}
    assert used - named == {"gemmini_dosa"}  # its constants were derived by hand (docs/gemmini.md)


def files_of(what):
    if isinstance(what, calibrations.Kernels):
        return what.files
    return (what,) if isinstance(what, str) else tuple(file for plan in what for file in plan.files)


@pytest.mark.parametrize("name", ["tenstorrent", "tpu-gemm"])
def test_a_committed_document_is_given_back(name: str, shared: Path):
    pytest.importorskip("scipy")
    only = calibrations.Only(classes=False)
    for again in calibrations.documents(name, shared / "data" / "measured", only):
        committed = calibration.find(again.chip, again.software, again.op, again.dtype)
        assert committed is not None
        assert (again.family, again.rows) == (committed.family, committed.rows)
        assert again.cross_validation.mape_pct == pytest.approx(committed.cross_validation.mape_pct, rel=0.1)
        shares = [spec.name for spec in family(again.family).parameters if spec.high == 1]
        for share in shares:
            assert again.values()[share] == pytest.approx(committed.values()[share], rel=0.25), share
