"""Measures GEMM, attention, norms, softmax and copies with PyTorch on the accelerator that is present.

``python -m bench.device --out rows.csv`` writes rows in the schema of ``npusim validate`` and, beside them, the facts
of the machine (``rows.json``). PyTorch is no dependency of this project.
"""
