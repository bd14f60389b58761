"""What lies on a chip: cache in whole blocks, windows, attention groups and stages."""

from __future__ import annotations

import pytest

import npusim as ns
from npusim import parallel
from npusim.chip import load_chip
from npusim.errors import DoesNotFit, InputError
from npusim.llm import precision
from npusim.models import load_model
from npusim.serving.engine import Rules, Window
from npusim.serving.placement import Placement, cache_blocks, window_of

FP8 = precision("fp8")
FAST = {"fidelity": "roofline", "precision": "fp8"}


def test_chips_of_a_placement():
    assert Placement(8, 2, 3).chips == 48 and Placement(8, 2, 3).engines == 6
    wide = Placement(2, 1, 3, ep=16)
    assert (wide.width, wide.groups, wide.replica_chips, wide.chips, wide.engines) == (16, 8, 16, 48, 3)
    same = Placement(8, ep=8)
    assert (same.width, same.groups, same.chips) == (8, 1, 8)
    with pytest.raises(InputError, match="ep"):
        Placement(ep=0).check()


def test_groups_multiply_the_cache():
    """Sixteen chips, experts shared by all: eight groups of two hold eight times what one group can."""
    model, chip, rules = load_model("deepseek-v3"), load_chip("h100"), Rules()
    place = Placement(2, ep=16)
    need = parallel.footprint(model, FP8, sequences=0, tokens=1, tp=2, ep=16, chunk_tokens=2048).total_bytes
    block = 16 * parallel.kv_bytes(model, FP8, 1, 2)
    assert cache_blocks(model, chip, FP8, place, rules) == 8 * int((parallel.usable_bytes(chip) - need) // block)


def test_windows_of_models():
    """gpt-oss: half of the layers see 128 tokens; gemma 3: 52 of 62 see 1024; all alike in width."""
    assert window_of(load_model("gpt-oss-20b"), 1) == Window(128, 1, 2)
    assert window_of(load_model("gemma-3-27b"), 1) == Window(1024, 26, 31)
    assert window_of(load_model("mistral-7b"), 1) == Window(4096, 1, 1)
    assert window_of(load_model("llama-3.1-8b"), 1) == Window()


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gemma-3-27b", "mistral-7b", "exaone-4.0-32b"])
def test_blocks_hold_the_bytes_that_windows_leave(name: str):
    """A long sequence takes the bytes of ``kv_bytes``, which counts layer by layer, to a few blocks."""
    model = load_model(name)
    window, token = window_of(model, 1), float(parallel.kv_bytes(model, FP8, 1, 1))
    for tokens in (64, 1000, 5000, 100_000):
        blocks = window.blocks(tokens, 1, 16)
        exact = float(parallel.kv_bytes(model, FP8, tokens, 1)) / token / 16
        assert exact <= blocks <= exact + 2.5


def test_a_step_needs_what_its_first_new_token_sees():
    """Window 8, blocks of 4, half of the cache in layers with it."""
    window = Window(8, 1, 2)
    assert window.blocks(40, 40, 4) == 10  # all are new, the first one sees itself
    # Token 40, counted from 0, sees 33 to 40: 33 tokens, 8 whole blocks, are gone in half of the cache.
    assert window.blocks(41, 1, 4) == 11 - 8 // 2
    # A chunk of 8 begins at token 32, which sees 25 and later: 6 whole blocks are gone.
    assert window.blocks(40, 8, 4) == 10 - 6 // 2


def test_windows_serve_longer_and_more_requests():
    """A 24 GB card: 12.7 GB are left of gpt-oss-20b in 4-bit; half of each token beyond 128 is given back."""
    load = {"arrivals": "closed:200", "input": 30000, "output": 200, "requests": 300, "chips": 1,
            "fidelity": "roofline", "precision": "w4a16"}  # fmt: skip
    served = ns.serve("l4", "gpt-oss-20b", **load)
    tokens, data = served.to_dict()["kv_tokens_per_engine"], served.to_dict()
    fit = tokens / 30200
    assert 1.5 * fit < data["mean_running"] < 2.1 * fit


def test_shared_experts_are_served_and_cost_exchanges():
    same = ns.serve("h100", "qwen3-30b-a3b", tp=4, ep=4, chips=4, arrivals="poisson:20", requests=300, **FAST)
    data = same.to_dict()
    assert data["placement"] == {"chips": 4, "tp": 4, "pp": 1, "ep": 4, "replicas": 1, "prefill_replicas": 0}
    groups = ns.serve("h100", "qwen3-30b-a3b", tp=1, ep=4, chips=4, arrivals="poisson:20", requests=300, **FAST)
    # Four groups keep each key and value once; four chips that split four KV heads' worth keep them once, too.
    assert groups.to_dict()["kv_tokens_per_engine"] == pytest.approx(data["kv_tokens_per_engine"], rel=0.03)
    mla = [ns.serve("h100", "deepseek-v3", tp=tp, ep=16, chips=16, arrivals="closed:2", requests=4, **FAST).to_dict()
           for tp in (1, 16)]  # fmt: skip
    assert mla[0]["kv_tokens_per_engine"] > 6 * mla[1]["kv_tokens_per_engine"]  # latents are not split by tp


def test_the_busiest_chip_slows_the_steps():
    def tpot(pct: float) -> float:
        rules = Rules(max_tokens=256, max_sequences=64)
        return ns.serve("h100", "gpt-oss-20b", tp=1, ep=4, chips=4, requests=128, input=64, output=64,
                        arrivals="closed:64", rules=rules, imbalance_pct=pct).to_dict()["tpot_s"]["mean"]  # fmt: skip

    assert tpot(100) < tpot(200) < tpot(400)
    with pytest.raises(InputError, match="100 to 400"):
        tpot(401)


def test_energy_counts_every_chip():
    """Twice the chips, each with its share of the work: never less static power, and the same routed FLOPs."""
    one, two = (ns.serve("h100", "gpt-oss-20b", tp=1, ep=ep, chips=ep, arrivals="closed:32", requests=64, **FAST)
                for ep in (2, 4))  # fmt: skip
    watts = [run.energy_j / run.run.totals["now"] for run in (one, two)]
    assert 1.2 * watts[0] < watts[1] < 2.2 * watts[0]


@pytest.mark.parametrize(("more", "message"), [({"ep": 2}, "routes to no experts"), ({"ep": 0}, "ep"),
                                               ({"ep": 2, "model": "gpt-oss-20b", "tp": 4}, "multiple of tp"),
                                               ({"pp": 33}, "1 to the 32 layers"),
                                               ({"ep": 3, "model": "gpt-oss-20b"}, "divisor")])  # fmt: skip
def test_bad_shares_are_refused(more: dict[str, object], message: str):
    given = {"model": "llama-3.1-8b", "requests": 10, **FAST, **more}
    with pytest.raises(InputError, match=message):
        ns.serve("h100", given.pop("model"), **given)


def test_the_longest_request_lies_on_one_group():
    """Memory for 3000 tokens beside the weights on each of two groups: 4000 fit both together, but neither."""
    model, rules = load_model("qwen3-30b-a3b"), Rules(max_tokens=512)
    need = parallel.footprint(model, FP8, sequences=0, tokens=1, tp=1, ep=2, chunk_tokens=512).total_bytes
    size = float(need) + 3000 * float(parallel.kv_bytes(model, FP8, 1, 1))
    chip = load_chip("h100").replace({"memory.capacity": size, "memory.usable": 1.0})
    given = {"tp": 1, "ep": 2, "chips": 2, "output": 100, "requests": 4, "rules": rules, **FAST}
    assert ns.serve(chip, model, input=2800, **given).to_dict()["kv_tokens_per_engine"] > 5900
    with pytest.raises(DoesNotFit, match="longest request"):
        ns.serve(chip, model, input=3900, **given)


def test_stages_keep_more_where_heads_are_copied():
    """Eight KV heads: sixteen chips that split every layer keep each twice, two stages of eight chips once."""
    model, chip, rules = load_model("llama-3.1-70b"), load_chip("h100"), Rules()
    wide, staged = (cache_blocks(model, chip, FP8, place, rules) * place.engines
                    for place in (Placement(16), Placement(8, 2)))  # fmt: skip
    assert staged == pytest.approx(2 * wide, rel=0.01)
