"""What ``npusim trace`` does, behind its options."""

from __future__ import annotations

from typing import Any

from npusim.chip import Chip
from npusim.cost import estimate, trace_events
from npusim.report import timeline_plot
from npusim.report.files import save_text
from npusim.workload import Workload


def trace(
    work: Workload, chip: Chip, out: str, op: str | None = None, cores: int | None = None, plot: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Writes the trace and, if wanted, a plot: an operator's timeline, or what bounds the operators of a step.

    Returns:
        What was written, with plain types; and what the reader should know about it.

    Raises:
        InputError: an operator, a number of cores or a path that cannot be had.
        Unavailable: the chip is not described for the cycle fidelity.
    """
    runs = trace_events.simulate(work, chip, op)
    title = f"{work.name if op is None else op} on {chip.title}"
    file = trace_events.write(runs, out, title, cores)
    written: dict[str, Any] = {
        "chip": chip.name, "workload": work.name, "trace": str(file.path), "events": file.events,
        "cores": file.cores, "chip_cores": file.chip_cores, "time_s": file.time_s, "plot": plot,
        "ops": [{"op": run.op.name, "count": run.op.count, "begin_s": run.begin_s, "time_s": run.time_s}
                for run in runs],
    }  # fmt: skip
    notes = []
    if cores is None and file.cores < file.chip_cores:
        notes.append(f"all {file.chip_cores} cores would pass {trace_events.MAX_EVENTS} events: the trace shows the "
                     f"first {file.cores}; --cores N chooses others")  # fmt: skip
    if plot is not None:
        save_text(plot, _picture(work, chip, runs, title, cores), "--plot")
    return written, notes


def _picture(work: Workload, chip: Chip, runs: list[trace_events.Run], title: str, cores: int | None) -> str:
    if len(runs) > 1:
        return timeline_plot.utilisation(estimate(work, chip, "cycle"))
    run = runs[0]
    return timeline_plot.timeline(run, title, cores or timeline_plot.SHOWN_CORES)
