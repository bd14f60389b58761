"""Our kernels against the best installed peers, interleaved in one process on one thread.

python -m bench.peers                              # all ops: some minutes
python -m bench.peers --op gemm,rows --seconds 2 --json result.json
"""
