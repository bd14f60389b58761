"""Are reports written whole or not at all, with one clear error?"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from npusim.errors import InputError
from npusim.kperf_suite import COLUMNS, KPerf, kperf
from npusim.report import files, page, table, workbook

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(scope="module")
def result() -> KPerf:
    return kperf("h100", models=["exaone-3.5-32b"], precisions=["bf16"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_all_formats_into_a_new_folder(result: KPerf, tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = files.write_reports(result, out)
    assert [path.name for path in paths] == ["kperf.xlsx", "kperf.html", "kperf.csv", "kperf.json"]
    assert names(out) == sorted(path.name for path in paths)
    assert all(path.stat().st_size > 1000 for path in paths)
    umask = os.umask(0)
    os.umask(umask)
    assert paths[0].stat().st_mode & 0o777 == 0o666 & ~umask


def test_writes_the_same_bytes_over_what_was_there(result: KPerf, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in files.write_reports(result, tmp_path)]
    (tmp_path / "kperf.csv").write_text("old")
    (tmp_path / "mine.txt").write_text("kept")
    assert [path.read_bytes() for path in files.write_reports(result, str(tmp_path))] == first
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert len(names(tmp_path)) == 5


def test_only_the_formats_asked_for(result: KPerf, tmp_path: Path) -> None:
    files.write_reports(result, tmp_path, ("json", "csv", "json"))
    assert names(tmp_path) == ["kperf.csv", "kperf.json"]
    with pytest.raises(InputError, match="unknown report format 'pdf'"):
        files.write_reports(result, tmp_path / "new", ("csv", "pdf"))
    assert not (tmp_path / "new").exists()


def test_csv_reads_back_exactly(result: KPerf) -> None:
    rows = list(csv.DictReader(io.StringIO(files.to_csv(result).decode())))
    keys = [key for key, *_ in COLUMNS]
    after = keys.index("concurrency") + 1
    assert list(rows[0]) == [*keys[:after], "concurrency_level", *keys[after:], "short_bytes"]
    for text, row in zip(rows, result.rows, strict=True):
        for key in ("ttft_s", "tpot_s", "tokens_per_s", "memory_bytes", "short_bytes"):
            assert (float(text[key]) if text[key] else None) == row[key]
        assert text["concurrency_level"] == row["concurrency_level"]
        assert text["note"] == row["note"]


def test_json_reads_back_exactly(result: KPerf) -> None:
    data = files.to_json(result)
    assert data.endswith(b"}\n")
    assert json.loads(data)["rows"] == [dict(row) for row in result.rows]


def test_json_refuses_what_json_cannot_say(result: KPerf) -> None:
    broken = dataclasses.replace(result, rows=(result.rows[0] | {"ttft_s": float("nan")},))
    with pytest.raises(ValueError, match="JSON"):
        files.to_json(broken)


def one_error(result: KPerf, out: Path) -> str:
    with pytest.raises(InputError) as caught:
        files.write_reports(result, out, ("csv", "json"))
    assert len(caught.value.problems) == 1
    text = str(caught.value)
    assert str(out) in text
    assert "\n" not in text
    return text


def test_parent_that_does_not_exist(result: KPerf, tmp_path: Path) -> None:
    one_error(result, tmp_path / "no" / "out")
    assert names(tmp_path) == []


def test_target_that_is_a_file(result: KPerf, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    one_error(result, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    one_error(result, tmp_path / "out" / "below")


@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_names_no_system_accepts(result: KPerf, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot write reports to"):
        files.write_reports(result, tmp_path / name, ("csv",))
    assert names(tmp_path) == []


def test_report_name_that_is_a_folder(result: KPerf, tmp_path: Path) -> None:
    (tmp_path / "kperf.json").mkdir()
    assert "kperf.json" in one_error(result, tmp_path)
    assert names(tmp_path) == ["kperf.json"]


@pytest.mark.skipif(ROOT, reason="root may write to read-only folders")
def test_read_only_folder(result: KPerf, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    one_error(result, tmp_path)
    one_error(result, tmp_path / "out")
    tmp_path.chmod(0o700)
    assert names(tmp_path) == []


BREAKS = {
    "fsync": (os, "fsync"),
    "open": (tempfile, "mkstemp"),
    "replace": (Path, "replace"),
    "mkdir": (Path, "mkdir"),
}


@pytest.mark.parametrize(
    ("call", "fresh"), [(call, fresh) for call in BREAKS for fresh in (True, False) if fresh or call != "mkdir"]
)
def test_a_failing_disk_leaves_nothing(
    result: KPerf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fresh: bool
) -> None:
    out = tmp_path / "out"
    if not fresh:
        out.mkdir()
        (out / "kperf.csv").write_text("old")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*BREAKS[call], fail)
        assert "No space left" in one_error(result, out)
    assert names(tmp_path) == ([] if fresh else ["out"])
    if not fresh:
        assert (out / "kperf.csv").read_text() == "old"
        assert names(out) == ["kperf.csv"]


def test_an_interrupt_leaves_nothing(result: KPerf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        files.write_reports(result, tmp_path / "out", ("csv",))
    assert names(tmp_path) == []


def test_nothing_is_written_when_one_format_cannot_be_rendered(
    result: KPerf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: KPerf) -> bytes:
        raise InputError("no library")

    monkeypatch.setitem(files.RENDERERS, "xlsx", fail)
    with pytest.raises(InputError, match="no library"):
        files.write_reports(result, tmp_path / "out")
    assert names(tmp_path) == []


HOSTILE = ("=1+1", "a/b[c]:*?\\" * 9, "History", "'x'", "<b>&\x00\x1b[31m", "엑사원 \u202e", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_reported(result: KPerf, name: str) -> None:
    chip = result.chips[0].model_copy(update={"name": name, "title": name, "notes": (name,)})
    rows = tuple(row | {"model": name, "chip": name, "precision": name} for row in result.rows)
    odd = dataclasses.replace(result, chips=(chip,), rows=rows, notes=(name,))
    assert workbook.render(odd)
    assert page.render(odd)
    assert len(files.to_csv(odd).splitlines()) >= len(rows)
    assert "\x1b" not in table.render(odd)
    assert "\x00" not in page.render(odd)


def test_models_whose_names_differ_only_in_case_get_sheets_of_their_own(result: KPerf) -> None:
    half = len(result.rows) // 2
    rows = tuple(row | {"model": "Model" if i < half else "model"} for i, row in enumerate(result.rows))
    assert workbook.render(dataclasses.replace(result, rows=rows))


def test_a_workbook_never_holds_a_formula(result: KPerf) -> None:
    rows = tuple(row | {"model": "=HYPERLINK(1)", "note": "=1+1"} for row in result.rows)
    book = zipfile.ZipFile(io.BytesIO(workbook.render(dataclasses.replace(result, rows=rows))))
    for name in book.namelist():
        if name.startswith("xl/worksheets/sheet"):
            assert b"<f>" not in book.read(name)
