"""Step tables made by hand: linear ones, whose look-up must give what a formula gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from npusim import _sim
from npusim.serving.engine import Rules
from npusim.serving.steps import StepTable, node_values


def linear_table(formula: Any, rules: Rules, context: int = 4096, draft: Any = None) -> StepTable:
    """Seconds linear in tokens, rows and contexts as ``formula`` says; one joule a token. ``draft``: the drafter's."""
    query = 1 + rules.draft_tokens
    tokens = np.arange(rules.max_tokens + 1.0)
    common = np.stack([formula.step_s * (tokens > 0) + formula.token_s * tokens, tokens], axis=-1)
    rows = np.arange(rules.max_sequences * query + 1.0)
    reaches = node_values(context + query)
    ends = np.stack([reaches[:-1], reaches[1:] - 1], axis=-1)
    decode = np.zeros((rules.max_sequences + 1, *ends.shape, 2))
    # Below the first real context the line goes on; only the clipped end is never looked up.
    decode[..., 0] = formula.decode_s * (ends - (query - 1))
    alone = replace(rules, draft_tokens=0, accepted_tokens=1)
    return StepTable(
        common, np.stack([formula.row_s * rows, 0 * rows], axis=-1), np.zeros_like(common),
        np.array([[0.0, 0, 0], [1, 0, 0]]), decode, _prompts(formula), context, 0.0, 0.0, formula.swap_s,
        rules.draft_tokens, draft and linear_table(draft, alone, context + 64),
    )  # fmt: skip


def _prompts(formula: Any) -> Any:
    """Attention that waits for one memory only, which a new token and a past one pass with some bytes."""
    ops = _sim.ffi.new("nps_attention[1]")
    op = ops[0]
    for name in ("count", "groups", "heads", "kv_heads", "value_dim", "flops_per_s", "compute", "memory",
                 "byte_s"):  # fmt: skip
        setattr(op, name, 1.0)
    op.window, op.dram_bytes_per_s = 1e18, 1e18
    # A prompt pays what it would pay among as many like it: n times the bytes, over n.
    op.token_bytes[0], op.past_bytes = formula.prefill_s, formula.past_s
    return ops
