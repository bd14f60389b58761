"""Where results are kept: one SQLite file (WAL), keyed by the content of the inputs and the version of the code.

A unit is one design on all cases of a plan. It is written in one transaction with all its rows; what ``add`` has
returned from is on disk. Several plans may share a file: equal inputs have equal keys and are not priced again.

Tables: ``plans(key, name, data)``, ``cases(plan, number, ...)``, ``units(key, plan, number, parameters, status,
message, <design metrics>)``, ``points(unit, number, <point metrics>, fits, bound, note)``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import npusim
from npusim.errors import InputError, Problem
from npusim.sizing.evaluation import COLUMNS, Outcome
from npusim.sizing.plan import Design, Plan
from npusim.sizing.quantities import DESIGN_METRICS

FORMAT = "npusim-sweep/1"
_UNIT = ("key", "plan", "number", "parameters", "status", "message", *DESIGN_METRICS)
_CASE = ("plan", "number", "kind", "model", "changes", "precision", "phase", "tp", "batch", "tokens", "page", "output",
         "suite")  # fmt: skip
_TEXT = {"fits": "INTEGER", "bound": "TEXT", "note": "TEXT"}
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS plans (key TEXT PRIMARY KEY, name TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS cases (
  plan TEXT, number INTEGER, kind TEXT, model TEXT, changes TEXT, precision TEXT, phase TEXT, tp TEXT, batch TEXT,
  tokens INTEGER, page INTEGER, output INTEGER, suite TEXT, PRIMARY KEY (plan, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (
  key TEXT PRIMARY KEY, plan TEXT, number INTEGER, parameters TEXT, status TEXT, message TEXT,
  {", ".join(f"{name} REAL" for name in DESIGN_METRICS)}) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS points (
  unit INTEGER, number INTEGER, {", ".join(f"{name} {_TEXT.get(name, 'REAL')}" for name in COLUMNS)},
  PRIMARY KEY (unit, number)) WITHOUT ROWID;
"""


class StoreError(InputError):
    """The file of results cannot be written or read: full disk, no permission, damage. Exit code 2."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of npusim and a hash of everything that prices: sources, compiled models, catalog."""
    home = Path(npusim.__file__).parent
    digest = hashlib.sha256(npusim.__version__.encode())
    for path in sorted(home.rglob("*")):
        part = path.relative_to(home).parts[0]
        if path.suffix in (".py", ".so", ".yaml") and part not in ("report", "accuracy", "serving"):
            digest.update(str(path.relative_to(home)).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{npusim.__version__}+{digest.hexdigest()[:16]}"


def _hash(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Keys:
    """Content hashes of a plan and of its units."""

    def __init__(self, plan: Plan) -> None:
        cases = [case.to_dict() for case in plan.cases]
        self._shared = _hash(code_version(), plan.fidelity, plan.power, plan.chip.model_dump(mode="json"), cases)
        self.plan = _hash(self._shared, {name: list(values) for name, values in plan.parameters.items()},
                          {name: e.text for name, e in plan.derived.items()})  # fmt: skip

    def unit(self, design: Design) -> str:
        """Key of a design on the plan's cases."""
        return _hash(self._shared, sorted(design.changes))


@contextmanager
def _named(path: str) -> Iterator[None]:
    """SQLite's errors as one of ours, with what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = str(error)
        hint = "earlier results are safe: free space or copy the file, then run the same command again"
        if "full" in text or "disk I/O" in text or getattr(error, "errno", 0) in (27, 28):
            what = "the disk is full"
        elif "readonly" in text or "unable to open" in text or getattr(error, "errno", 0) in (1, 13, 30):
            what = f"cannot be written: {text}"
            hint = "give the file (and its folder) write permission, or another path; --export reads it as it is"
        elif "locked" in text:
            what, hint = "another sweep is writing it", "wait for it, or use another file"
        else:
            what = f"is damaged or no store: {text}"
            hint = "'npusim sweep --export' writes what can still be read; then start a new file"
        raise StoreError(Problem(what, file=path, hint=hint)) from None


class Store:
    """One file of results; ``:memory:`` keeps them in memory."""

    def __init__(self, path: str | os.PathLike[str], readonly: bool = False) -> None:
        """Opens or creates the file. Raises StoreError when that is impossible or it is damaged."""
        self.path = str(path)
        with _named(self.path):
            self._db = self._open(readonly)

    def _open(self, readonly: bool) -> sqlite3.Connection:
        if readonly:
            if not os.path.exists(self.path):
                raise StoreError(Problem("no such file of results", file=self.path))
            uri = Path(self.path).absolute().as_uri()
            db = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=10)
            try:
                db.execute("SELECT count(*) FROM units").fetchone()
            except sqlite3.OperationalError as error:
                if "unable to open" not in str(error) and "readonly" not in str(error):
                    raise
                # A write-ahead log needs a writable folder: a copy, log included, has one.
                db.close()
                db = sqlite3.connect(self._copied(), timeout=10)
            return db
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        db.executescript(_SCHEMA)
        # Fails here, not after the first hour, when the file cannot be written.
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
        return db

    def _copied(self) -> Path:
        self._copy = tempfile.TemporaryDirectory(prefix="npusim-")
        for suffix in ("", "-wal"):
            if os.path.exists(self.path + suffix):
                shutil.copyfile(self.path + suffix, Path(self._copy.name) / f"copy.db{suffix}")
        return Path(self._copy.name) / "copy.db"

    def close(self) -> None:
        """Closes the file."""
        with _named(self.path):
            self._db.close()

    def begin(self, plan: Plan, keys: Keys) -> set[str]:
        """Registers a plan; returns the keys of units that are there already."""
        with _named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                data = json.dumps(plan.data, sort_keys=True, default=str)
                self._db.execute("INSERT OR IGNORE INTO plans VALUES (?, ?, ?)", (keys.plan, plan.name, data))
                rows = [
                    (keys.plan, i, c.kind, c.model, json.dumps(c.changes), c.precision, c.phase, str(c.tp),
                     str(c.batch), c.tokens, c.page, c.output, c.suite)
                    for i, c in enumerate(plan.cases)
                ]  # fmt: skip
                self._db.executemany(f"INSERT OR IGNORE INTO cases VALUES ({_marks(_CASE)})", rows)
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            return {key for (key,) in self._db.execute("SELECT key FROM units")}

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def add(self, plan: str, outcomes: Iterable[tuple[str, int, Design, Outcome]]) -> None:
        """Writes units (key, number, design, outcome) and their rows; they are on disk when it returns."""
        with _named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for key, number, design, outcome in outcomes:
                    unit = (key, plan, number, json.dumps(dict(design.parameters)), outcome.status, outcome.message)
                    figures = tuple(outcome.metrics.get(name) for name in DESIGN_METRICS)
                    made = self._db.execute(f"INSERT OR IGNORE INTO units VALUES ({_marks(_UNIT)})", (*unit, *figures))
                    if made.rowcount == 0:
                        continue
                    short = _short(key)
                    self._db.executemany(
                        f"INSERT INTO points VALUES ({_marks(('', '', *COLUMNS))})",
                        [(short, i, *row) for i, row in enumerate(outcome.rows)],
                    )
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise

    # -- reading ----------------------------------------------------------------------------------------

    def unit(self, key: str) -> dict[str, Any] | None:
        """One unit, or None."""
        with _named(self.path):
            row = self._db.execute("SELECT * FROM units WHERE key = ?", (key,)).fetchone()
        return None if row is None else dict(zip(_UNIT, row, strict=True))

    def points(self, key: str) -> list[tuple[Any, ...]]:
        """Rows of one unit in ``COLUMNS``, in the order of the cases."""
        with _named(self.path):
            rows = self._db.execute("SELECT * FROM points WHERE unit = ? ORDER BY number", (_short(key),)).fetchall()
        return [row[2:] for row in rows]

    def plans(self) -> list[tuple[str, str]]:
        """(key, name) of every plan in the file."""
        with _named(self.path):
            return self._db.execute("SELECT key, name FROM plans ORDER BY key").fetchall()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every point with its design and case, in the order of the keys; what a damaged page hides is left out.

        Raises:
            StoreError: after the last row that could be read, when the file is damaged.
        """
        lost: list[str] = []
        with _named(self.path):
            keys = [row[0] for row in self._db.execute("SELECT key FROM units ORDER BY key")]
            cases = {
                (row[0], row[1]): dict(zip(_CASE[2:], row[2:], strict=True))
                for row in self._db.execute(f"SELECT {', '.join(_CASE)} FROM cases")
            }
        for key in keys:
            try:
                unit = self.unit(key)
                found = self.points(key)
            except StoreError:
                lost.append(key)
                continue
            if unit is None:
                continue
            yield from _flat(unit, found, cases)
        if lost:
            raise StoreError(
                Problem(f"is damaged: {len(lost)} of {len(keys)} designs could not be read", file=self.path,
                        hint="the others were; start a new file for the rest")
            )  # fmt: skip

    def dump(self) -> str:
        """All content as text in a canonical order: equal for equal results, however they were made."""
        lines = []
        with _named(self.path):
            for table, order in (("plans", "key"), ("cases", "plan, number"), ("units", "key"),
                                 ("points", "unit, number")):  # fmt: skip
                for row in self._db.execute(f"SELECT * FROM {table} ORDER BY {order}"):
                    lines.append(json.dumps([table, *row]))
        return "".join(f"{line}\n" for line in lines)


def _marks(columns: Iterable[str]) -> str:
    return ", ".join("?" for _ in columns)


def _short(key: str) -> int:
    """The unit's number in ``points``: 63 bits of its key."""
    return int(key[:16], 16) >> 1


def _flat(
    unit: dict[str, Any], points: list[tuple[Any, ...]], cases: dict[tuple[str, int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    design = {"design": unit["key"], "status": unit["status"], "message": unit["message"]}
    design |= json.loads(unit["parameters"]) | {name: unit[name] for name in DESIGN_METRICS}
    if not points:
        yield design
    for number, row in enumerate(points):
        case = cases.get((unit["plan"], number), {})
        values = dict(zip(COLUMNS, row, strict=True))
        values["fits"] = bool(values["fits"])
        yield design | case | values
