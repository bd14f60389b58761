"""Is every WORKLOAD either the workload its words say or one clear error?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim import llm, workload
from npusim.errors import InputError
from npusim.grammar import parse_workload


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("gemm:m=4,n=5,k=6", workload.gemm(4, 5, 6)),
        (
            "gemm:m=4,n=5,k=6,a=fp8,b=int4,out=bf16,groups=2,bias=1",
            workload.gemm(4, 5, 6, "fp8", "int4", groups=2, bias=True),
        ),
        ("experts:tokens=4,top_k=2,experts=8,n=5,k=6", workload.experts(4, 2, 8, 5, 6)),
        (
            "attention:batch=1,heads=4,kv_heads=2,head_dim=8,seq_q=1,seq_kv=9,window=4",
            workload.attention(1, 4, 2, 8, 1, 9, window=4),
        ),
        (
            "attention:batch=1,heads=4,kv_heads=2,head_dim=8,seq_q=9,seq_kv=9,causal=0,store=0",
            workload.attention(1, 4, 2, 8, 9, 9, causal=False, store=False),
        ),
        ("norm:rows=4,cols=5,function=layernorm", workload.norm(4, 5, function="layernorm")),
        ("softmax:rows=4,cols=5", workload.softmax(4, 5)),
        ("elementwise:n=4,function=swiglu", workload.elementwise(4, "swiglu")),
        ("embedding:tokens=4,hidden=5,table=fp8", workload.embedding(4, 5, "fp8")),
        (
            "conv2d:batch=1,in_h=8,in_w=8,in_c=3,out_c=4,kh=3,kw=3,stride=2",
            workload.conv2d(1, 8, 8, 3, 4, 3, 3, stride=2),
        ),
        ("collective:elements=8,chips=4,function=all_gather", workload.collective(8, 4, "all_gather")),
    ],
)
def test_operators(text: str, op: workload.Op):
    parsed = parse_workload(text)
    assert parsed.ops == (op,) and parsed.name == text


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("llama-3.1-8b:decode", llm.decode("llama-3.1-8b")),
        (
            "llama-3.1-8b:decode,b=32,ctx=4096,w=fp8,a=fp8,kv=fp8,tp=2",
            llm.decode("llama-3.1-8b", batch=32, context=4096, weights="fp8", activations="fp8", kv="fp8", tp=2),
        ),
        ("llama-3.1-8b:prefill,prompt=100,past=50,batch=2", llm.prefill("llama-3.1-8b", prompt=100, past=50, batch=2)),
        ("llama-3.1-8b:prefill,p=w4a8", llm.prefill("llama-3.1-8b", weights="int4", activations="fp8", kv="fp8")),
        ("bert-large:prefill,prompt=128", llm.prefill("bert-large", prompt=128)),
    ],
)
def test_model_steps(text: str, step: workload.Workload):
    parsed = parse_workload(text)
    assert parsed.ops == step.ops and parsed.chips == step.chips


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ("'' is not a workload", "MODEL:prefill")),
        ("llama-3.1-8b", ("is not a workload", "MODEL:decode")),
        ("gemm:", ("gemm: missing k, m, n", "gemm takes a, b, bias")),
        ("gemm:m=1", ("missing k, n",)),
        ("gemm:m=1,n=1,k=1,q=1", ("unknown key of gemm 'q'", "known: a, b, bias, groups, k, m, n, out")),
        ("gemm:m=1,n=1,k=1,grops=1", ("did you mean 'groups'?",)),
        ("gemm:m=1,n=1,k=", ("'k=' is not KEY=VALUE",)),
        ("gemm:m=1,n,k=1", ("'n' is not KEY=VALUE",)),
        ("gemm:m=1,m=2,n=1,k=1", ("'m' is given twice",)),
        ("gemm:m=0,n=1,k=1", ("gemm.m: 0 is out of range", "from 1 to 2^40")),
        ("gemm:m=-3,n=1,k=1", ("gemm.m: -3 is out of range",)),
        ("gemm:m=1.5,n=1,k=1", ("gemm.m: '1.5' is not a dimension",)),
        ("gemm:m=abc,n=1,k=1", ("gemm.m: 'abc' is not a dimension",)),
        (f"gemm:m={2**70},n=1,k=1", (f"gemm.m: {2**70} is out of range",)),
        ("gemm:m=1,n=1,k=1,a=bf61", ("gemm.a: unknown number format 'bf61'", "did you mean 'bf16'?")),
        ("gemm:m=1,n=1,k=1,a=0", ("gemm.a",)),
        ("gemm:m=1,n=1,k=1,bias=abc", ("bias",)),
        ("gemm:m=1,n=1,k=1,bias=3", ("bias",)),
        ("attention:batch=1,heads=1,kv_heads=1,head_dim=8,seq_q=1,seq_kv=2,causal=no", ("causal",)),
        (f"attention:batch=1,heads=1,kv_heads={2**70},head_dim=abc,seq_q=1,seq_kv=2", ("attention",)),
        ("elementwise:n=5,function=7", ("unknown function of elementwise '7'",)),
        ("elementwise:n=5,function=rleu", ("did you mean 'relu'?",)),
        ("collective:elements=8,chips=4,function=8", ("unknown function of collective '8'",)),
        ("gemmm:m=1,n=1,k=1", ("unknown operator or phase 'gemmm'", "did you mean 'gemm'?")),
        ("llama-3.1-8b:decod", ("unknown operator or phase 'decod'", "did you mean 'decode'?")),
        ("lama-3.1-8b:decode", ("unknown model 'lama-3.1-8b'", "did you mean 'llama-3.1-8b'?")),
        ("llama-3.1-8b:decode,prompt=5", ("unknown key of decode 'prompt'",)),
        ("llama-3.1-8b:prefill,ctx=5", ("unknown key of prefill 'ctx'",)),
        ("llama-3.1-8b:decode,p=fp9", ("unknown precision 'fp9'",)),
        ("llama-3.1-8b:decode,w=fp9", ("unknown number format 'fp9'",)),
        ("llama-3.1-8b:decode,tp=0", ("tp: 0 is out of range",)),
        ("llama-3.1-8b:decode,b=two", ("batch: 'two' is not a dimension",)),
        ("llama-3.1-8b:decode,b=2,batch=3", ("twice",)),
        ("bert-large:decode", ("is an encoder",)),
        ("none/config.json:decode", ("cannot read",)),
    ],
)  # fmt: skip
def test_refused(text: str, says: tuple[str, ...]):
    with pytest.raises(InputError) as caught:
        parse_workload(text)
    message = str(caught.value)
    assert all(word in message for word in says), message
    assert "\n" not in message and len(message) < 600


WORDS = ["gemm", "attention", "decode", "llama-3.1-8b", "m=1", "k=2", ":", ",", "=", "tp", "0", "9" * 50, "x", "²", "-"]


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), max_size=12).map("".join))
def test_any_text_is_parsed_or_refused(text: str):
    try:
        assert parse_workload(text).ops
    except InputError as error:
        assert str(error) and len(str(error)) < 2000


KEYS = [
    "batch",
    "heads",
    "kv_heads",
    "head_dim",
    "seq_q",
    "seq_kv",
    "window",
    "causal",
    "store",
    "q",
    "name",
    "v_head_dim",
]


@given(
    st.dictionaries(
        st.sampled_from(KEYS), st.sampled_from(["1", "4", "0", "-1", "x", "99999999999999", "fp8", "1e3", "²"])
    )
)
def test_any_values_are_parsed_or_refused(values: dict[str, str]):
    given = {"batch": "1", "heads": "4", "kv_heads": "2", "head_dim": "8", "seq_q": "1", "seq_kv": "4"} | values
    try:
        assert parse_workload("attention:" + ",".join(f"{k}={v}" for k, v in given.items())).bytes() >= 0
    except InputError as error:
        assert str(error)
