"""Rows that the fast passes of layernorm and softmax are right for, and rows that they must hand on."""

import numpy as np

LENGTHS = (1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 129, 511, 512, 513, 600, 1000, 1024, 1031, 4096, 4101)


def layernorm_rows(n):
    """float32 rows of ``n`` elements by name: pivots at the mean, near it, and far from it."""
    rng = np.random.default_rng(n)
    noise, at = rng.normal(size=n), np.arange(n)
    rows = {
        "noise": noise,
        "zero": 0 * noise,
        "constant": 0 * noise + 0.1,
        "far above its spread": 1e4 + noise,
        "two neighbours": np.where(at % 3 == 0, 2.0**20, 2.0**20 + 0.125),
        "ramp": at / 7,
        "period": 1e3 * (at % 64 == 5) + noise,
        "first is large": np.where(at == 0, 1e6, noise),
        "last is large": np.where(at == n - 1, -1e6, noise),
        "middle is large": np.where(at == n // 2, 1e6, noise),
    }
    for group in (16, 32, 64):  # the sample of each instruction set, all of it and but one element of it
        sampled = at // group % 7 == 0
        rows[f"sample of {group} is off"] = np.where(sampled, 1e3, 0) + noise
        rows[f"sample of {group} is constant"] = np.where(sampled, 3.0, 1e-3 * noise - 1e3)
    return {name: row.astype(np.float32) for name, row in rows.items()}


def softmax_rows(n):
    """float32 rows of ``n`` elements by name: near 0, and with one element or more that is not."""
    rng = np.random.default_rng(n)
    noise, at = rng.normal(size=n), np.arange(n)
    rows = {"noise": noise, "limits": np.where(at % 2, 50, -50), "high": 0 * noise + 50, "low": 0 * noise - 50}
    rows |= {"far": 1e3 + noise, "wide": 300 * noise, "huge": 1e9 * np.sign(noise), "nothing": 0 * noise - np.inf}
    for place, where in {"first": 0, "middle": n // 2, "last": n - 1, "third": n // 3}.items():
        for value in (50.000004, 90.0, -51.0, -120.0, -1e6, -363409.0, 1e9, -np.inf, np.inf, np.nan):
            rows[f"{value} {place}"] = np.where(at == where, value, noise)
    rows["causal"] = np.where(at > n // 2, -np.inf, noise)
    rows["padded left"] = np.where(at < n // 3, -np.inf, noise)
    rows["every other"] = np.where(at % 2, -np.inf, 5 * noise)
    return {name: row.astype(np.float32) for name, row in rows.items()}
