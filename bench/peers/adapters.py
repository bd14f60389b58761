"""The peers that are known, and which of them are installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.peers import mkl_peer, numpy_peer, onnxruntime_peer, torch_peer
from bench.peers.problem import Peer, Problem, Runner

# oneDNN has no wheel with a C interface that is kept up: it is timed through PyTorch.
PEERS = (numpy_peer.PEER, onnxruntime_peer.PEER, torch_peer.PEER, mkl_peer.PEER, numpy_peer.ML_DTYPES, numpy_peer.OWN)


@dataclass(frozen=True)
class Installed:
    """What was found.

    Args:
        peers: that loaded.
        versions: of those, by name.
        missing: why the others did not, by name.
    """

    peers: tuple[Peer, ...]
    versions: dict[str, str]
    missing: dict[str, str]


def installed(known: Sequence[Peer] = PEERS) -> Installed:
    """Loads the peers and holds each to one thread."""
    versions, missing = {}, {}
    for peer in known:
        try:
            versions[peer.name] = peer.load()
        except (ImportError, OSError) as problem:
            missing[peer.name] = str(problem).partition("\n")[0] or type(problem).__name__
    return Installed(tuple(p for p in known if p.name in versions), versions, missing)


def runners(problem: Problem, peers: Sequence[Peer]) -> tuple[dict[str, Runner], dict[str, str]]:
    """Calls of the peers that offer the op, by name and way; and why others that offer it have none."""
    found: dict[str, Runner] = {}
    refused: dict[str, str] = {}
    for peer in peers:
        make = peer.offers.get(problem.op)
        if make is None:
            continue
        try:
            made = make(problem)
        except Exception as error:  # a peer's own limits, in whatever class it raises
            refused[peer.name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]
            continue
        found.update({f"{peer.name} {way}".strip(): runner for way, runner in made.items()})
    return found, refused
