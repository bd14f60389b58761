"""What a workload takes on a chip: seconds, bytes per level, joules, and the resource that bounds it."""

from npusim.cost.result import Cost, OpCost, estimate

__all__ = ["Cost", "OpCost", "estimate"]
