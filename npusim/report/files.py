"""Writing reports: everything is rendered before the first byte is written, and files appear whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from npusim.errors import InputError, Problem, unknown_name
from npusim.kperf_suite import KPerf
from npusim.report import format, page, workbook

STEM = "kperf"
FORMATS = ("xlsx", "html", "csv", "json")


def to_csv(kperf: KPerf) -> bytes:
    """Rows as CSV: SI units, keys as the header; an empty cell says that there is no figure."""
    keys = [key for key, *_ in kperf.columns]
    keys.insert(keys.index("concurrency") + 1, "concurrency_level")
    keys.append("short_bytes")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([_cell(row.get(key)) for key in keys] for row in kperf.rows)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ";".join(map(str, value))
    return repr(float(value)) if isinstance(value, float) else str(value)


def to_json(kperf: KPerf) -> bytes:
    """The result as JSON: sorted keys, no NaN, a line break at the end."""
    return (json.dumps(kperf.to_dict(), ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True) + "\n").encode()


def to_html(kperf: KPerf) -> bytes:
    """The page as UTF-8."""
    return page.render(kperf).encode()


RENDERERS: dict[str, Callable[[KPerf], bytes]] = {
    "xlsx": workbook.render,
    "html": to_html,
    "csv": to_csv,
    "json": to_json,
}


def write_reports(kperf: KPerf, out_dir: str | os.PathLike[str], formats: Iterable[str] = FORMATS) -> list[Path]:
    """Writes ``kperf.xlsx``, ``kperf.html``, ``kperf.csv`` and ``kperf.json`` into a folder.

    The folder is created, its parent must exist. All files are rendered first; each then replaces its
    predecessor in one step, so that a reader never sees half a file.

    Args:
        kperf: the result.
        out_dir: the folder.
        formats: which of ``FORMATS`` to write.

    Returns:
        The files in the order of ``formats``.

    Raises:
        InputError: an unknown format, a missing optional package, or a folder that cannot be written.
    """
    chosen = list(dict.fromkeys(formats))
    for name in chosen:
        if name not in RENDERERS:
            raise unknown_name("report format", str(name), RENDERERS, "formats")
    contents = {f"{STEM}.{name}": RENDERERS[name](kperf) for name in chosen}
    folder = Path(out_dir)
    try:
        return _write_all(folder, contents)
    except (OSError, ValueError) as error:  # ValueError: a path no system accepts, such as one with a NUL
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(Problem(f"cannot write reports to '{format.plain(folder)}': {reason}", "out",
                                 hint="give a folder that you may write to, in one that exists")) from None  # fmt: skip


def _write_all(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    """Writes temporary files, all of them, before any takes its final name."""
    created = not folder.is_dir()
    if created:
        folder.mkdir()
    waiting: list[tuple[Path, Path]] = []
    try:
        for name, data in contents.items():
            target = folder / name
            if target.is_dir():
                raise IsADirectoryError(0, f"'{name}' is a folder there")
            waiting.append((_write_temporary(folder, name, data), target))
        for temporary, target in waiting:
            temporary.replace(target)
    except BaseException:  # an interrupt too must leave nothing behind
        for temporary, _ in waiting:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    _sync(folder)
    return [target for _, target in waiting]


def _write_temporary(folder: Path, name: str, data: bytes) -> Path:
    """Writes and syncs a hidden file beside its target; removes it when that fails."""
    handle, text = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    path = Path(text)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        path.chmod(0o666 & ~_umask())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return path


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """Makes the renames durable where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
