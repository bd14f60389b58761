"""Step tables made by hand: linear ones, whose look-up must give what a formula gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from npusim.serving.engine import Rules
from npusim.serving.steps import COARSE, FINE, StepTable, node_values


def linear_table(formula: Any, rules: Rules, context: int = 4096) -> StepTable:
    """Seconds linear in tokens, rows and contexts as ``formula`` says; one joule a token."""
    query = 1 + rules.draft_tokens
    tokens = np.arange(rules.max_tokens + 1.0)
    common = np.stack([formula.step_s * (tokens > 0) + formula.token_s * tokens, tokens], axis=-1)
    rows = np.arange(rules.max_sequences * query + 1.0)
    contexts, reaches, chunks = (
        node_values(context, COARSE), node_values(context + query, FINE), node_values(rules.max_tokens, COARSE)
    )  # fmt: skip
    ends = np.stack([reaches[:-1], reaches[1:] - 1], axis=-1)
    decode = np.zeros((rules.max_sequences + 1, *ends.shape, 2))
    # Below the first real context the line goes on; only the clipped end is never looked up.
    decode[..., 0] = formula.decode_s * (ends - (query - 1))
    new = 1 + np.stack([chunks[:-1], chunks[1:] - 1], axis=-1)
    prefill = np.zeros((4, *new.shape, len(contexts), 2))
    prefill[..., 0] = formula.prefill_s * new[None, :, :, None] + formula.past_s * contexts
    return StepTable(
        common, np.stack([formula.row_s * rows, 0 * rows], axis=-1), np.zeros_like(common), np.zeros((600, 2)),
        decode, prefill, 0.0, 0.0, formula.swap_s, rules.draft_tokens,
    )  # fmt: skip
