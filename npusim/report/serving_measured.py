"""What ``npusim serve --measured`` prints."""

from __future__ import annotations

from npusim.serving.measured import Errors, FittedRequests


def render(found: FittedRequests) -> str:
    """Constants and errors of a fit against measured requests, as text."""
    c = found.constants

    def row(title: str, e: Errors) -> str:
        return (f"{title:<28}{e.requests:>9}{e.tpot_mape_pct:>11.2f}{e.e2e_mape_pct:>11.2f}{e.ttft_mean_pct:>11.2f}"
                f"{e.ttft_mape_pct:>11.2f}{e.tokens_per_s_pct:>11.2f}")  # fmt: skip

    return "\n".join([
        f"{found.model} on {found.chip}: constants fitted on every other request",
        f"sustained fractions: compute {c.compute:.3f}, memory {c.memory:.3f}, attention {c.attention:.3f}; host gap "
        f"{1e3 * (c.host_s or 0):.3f} ms a step; {found.blocks} cache blocks; at most {found.max_sequences} sequences",
        "",
        f"{'error, %':<28}{'requests':>9}{'TPOT':>11}{'end to end':>11}{'mean TTFT':>11}{'TTFT':>11}{'tokens/s':>11}",
        row("chip file alone, left out", found.unfitted),
        row("fitted, its own half", found.fitted),
        row("fitted, left out", found.left_out),
    ])  # fmt: skip
