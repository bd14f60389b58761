"""Who prices the designs: this process, a pool of processes, or a Dask cluster.

Each executor takes chunks of designs and yields (chunk number, outcomes) as they finish. What a design does to
its worker never takes others with it: an error is that design's outcome, and a chunk whose worker dies is split until
the design that kills it stands alone and is marked failed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from npusim.errors import InputError, Problem, unknown_name
from npusim.sizing.evaluation import Outcome, Pricer
from npusim.sizing.plan import Design, make_plan

EXECUTORS = ("serial", "processes", "dask")
Chunk = tuple[Design, ...]
Work = Callable[[dict[str, Any], Chunk], list[Outcome]]
Done = Iterator[tuple[Chunk, list[Outcome]]]
KILLED = "the worker died of it"
CONNECT_S = 20  # to reach a scheduler
_PRICERS: dict[str, Pricer] = {}


def price_chunk(data: dict[str, Any], chunk: Chunk) -> list[Outcome]:
    """Prices some designs of the plan that ``data`` describes; a worker keeps the plan between calls."""
    key = repr(sorted(data.items(), key=str))
    if key not in _PRICERS:
        _PRICERS.clear()
        _PRICERS[key] = Pricer(make_plan(data))
    return [_PRICERS[key].outcome(design) for design in chunk]


def check(executor: str, workers: int) -> None:
    """Raises InputError for an unknown executor or a number of workers out of range."""
    if executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS, "--executor")
    if not 1 <= workers <= 4096:
        raise InputError(Problem(f"{workers} workers", "--workers", allowed="1 to 4096"))


def run(
    data: dict[str, Any], chunks: Sequence[Chunk], executor: str = "serial", workers: int = 1, cluster: str = "local",
    work: Work = price_chunk,
) -> Done:  # fmt: skip
    """Prices chunks of designs.

    Args:
        data: the plan's plain data.
        chunks: designs that travel together.
        executor: one of ``EXECUTORS``.
        workers: processes of a pool or of a local cluster.
        cluster: ``local`` or the address of a Dask scheduler (``tcp://host:8786``).
        work: what prices a chunk.

    Raises:
        InputError: unknown executor, Dask not installed, or its scheduler not reached.
    """
    check(executor, workers)
    if executor == "serial":
        return _serial(data, chunks, work)
    if executor == "processes":
        return _processes(data, chunks, workers, work)
    return _dask(data, chunks, workers, cluster, work)


def _serial(data: dict[str, Any], chunks: Sequence[Chunk], work: Work) -> Done:
    for chunk in chunks:
        yield chunk, work(data, chunk)


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk) // 2
    return [chunk[:middle], chunk[middle:]]


def _pool(workers: int) -> ProcessPoolExecutor:
    # Forked children would inherit threads and open files of the parent.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _processes(data: dict[str, Any], chunks: Sequence[Chunk], workers: int, work: Work) -> Done:
    waiting, suspects = list(reversed(chunks)), list[Chunk]()
    while waiting:
        running: dict[Future[list[Outcome]], Chunk] = {}
        with _pool(workers) as pool:
            broken = False
            while (waiting or running) and not broken:
                while waiting and len(running) < 2 * workers:
                    chunk = waiting.pop()
                    running[pool.submit(work, data, chunk)] = chunk
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    chunk = running.pop(future)
                    try:
                        yield chunk, future.result()
                    except BrokenProcessPool:  # one of the chunks in flight did it; which one is not known
                        suspects.append(chunk)
                        broken = True
            suspects += running.values()
        for chunk in suspects:
            yield from _alone(data, chunk, work)
        suspects = []


def _alone(data: dict[str, Any], chunk: Chunk, work: Work) -> Done:
    """A chunk in a process of its own, split where that dies."""
    try:
        with _pool(1) as pool:
            outcomes = pool.submit(work, data, chunk).result()
    except BrokenProcessPool:
        if len(chunk) == 1:
            yield chunk, [Outcome("failed", KILLED)]
            return
        for half in _halves(chunk):
            yield from _alone(data, half, work)
        return
    yield chunk, outcomes


def _dask(data: dict[str, Any], chunks: Sequence[Chunk], workers: int, cluster: str, work: Work) -> Done:
    try:
        import distributed
    except ImportError:
        raise InputError(Problem("Dask is not installed", "--executor", hint="pip install 'npusim[dask]'")) from None
    dask: Any = distributed
    local = None
    try:
        if cluster == "local":
            local = dask.LocalCluster(
                workers, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
            )
        client = dask.Client(local or cluster, timeout=CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        problem = Problem(
            f"no Dask scheduler at {cluster}: {error}"[:300], "--cluster", allowed="local or tcp://HOST:PORT"
        )
        raise InputError(problem) from None
    try:
        # pure=False: equal chunks are still separate tasks; a lost worker's tasks are started again by Dask.
        futures = {client.submit(work, data, chunk, pure=False): chunk for chunk in chunks}
        completed: Any = dask.as_completed(list(futures))
        for future in completed:
            chunk = futures.pop(future)
            try:
                outcomes = future.result()
            except dask.scheduler.KilledWorker:
                if len(chunk) == 1:
                    yield chunk, [Outcome("failed", KILLED)]
                    continue
                for half in _halves(chunk):
                    again = client.submit(work, data, half, pure=False)
                    futures[again] = half
                    completed.add(again)
                continue
            yield chunk, outcomes
    finally:
        client.close()
        if local is not None:
            local.close()
