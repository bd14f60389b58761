"""What a workload takes on a chip: seconds, bytes per level, joules, and the resource that bounds it."""

from npusim.cost.result import FIDELITIES, Cost, OpCost, as_workload, estimate, options

__all__ = ["FIDELITIES", "Cost", "OpCost", "as_workload", "estimate", "options"]
