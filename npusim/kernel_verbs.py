"""The verbs ``npusim kernel list | golden | check``: golden cases and verdicts for kernels of any origin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from npusim.errors import InputError, Problem

if TYPE_CHECKING:
    from npukernels.cases import Case

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def kernel() -> None:
    """Golden cases for kernel developers, and verdicts on what a kernel made of them."""


@kernel.command("list")
@json_option
def list_kernels(as_json: bool) -> None:
    """List the ops: variants that run here, and number formats and sizes of their golden cases."""
    import npukernels
    from npukernels import cases

    makers = cases.makers()
    data: dict[str, dict[str, Any]] = {
        op: {
            "variants": list(npukernels.variants(op)) if op in npukernels.ops() else [],
            "dtypes": list(makers[op].dtypes) if op in makers else [],
            "sizes": dict(makers[op].sizes) if op in makers else {},
        }
        for op in sorted({*npukernels.ops(), *makers})
    }
    if as_json:
        click.echo(json.dumps({"ops": data, "fills": list(cases.FILLS)}, indent=1))
        return
    for op, about in data.items():
        click.echo(f"{op}\n  variants: {', '.join(about['variants']) or '-'}")
        sizes = ",".join(name if size is None else f"{name}={size}" for name, size in about["sizes"].items())
        if sizes:
            click.echo(f"  golden cases: {sizes} in {', '.join(about['dtypes'])}")
    click.echo(f"fills: {', '.join(cases.FILLS)}")


@kernel.command()
@click.argument("op")
@click.argument("sizes", nargs=-1, required=True, metavar="SIZE=N[,SIZE=N...]")
@click.option("--dtype", default="fp32", show_default=True, metavar="NAME", help="Number format.")
@click.option("--fill", default="uniform", show_default=True, metavar="NAME", help="How inputs are drawn (see list).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What they are drawn from.")
@click.option("--out", required=True, metavar="CASE.npz", help="File to write.")
@json_option
def golden(op: str, sizes: tuple[str, ...], dtype: str, fill: str, seed: int, out: str, as_json: bool) -> None:
    """Write a golden case of OP: inputs, expected output, and the largest error a correct kernel can make.

    For example: npusim kernel golden gemm m=64,n=64,k=64 --fill adversarial --out case.npz
    """
    import npukernels
    from npukernels import case_files

    if not out.endswith(".npz"):
        raise InputError(Problem(f"{out!r} is no .npz file"[:200], "--out"))
    case = npukernels.golden(op, dtype=dtype, fill=fill, seed=seed, **_sizes(",".join(sizes)))
    case_files.save_case(case, out)
    shapes = [{"name": f"input{i}", "shape": list(x.shape), "dtype": x.dtype.name} for i, x in enumerate(case.inputs)]
    expected = {"name": "output", "shape": list(case.expected.shape), "dtype": case.out_dtype}
    if as_json:
        click.echo(json.dumps({"file": out, "inputs": shapes, "output": expected, "repro": case.repro}, indent=1))
        return
    click.echo(f"wrote {out}")
    for item in (*shapes, expected):
        click.echo(f"  {item['name']}: {item['dtype']} {item['shape']}")


def _sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not name.isidentifier() or not (value.isascii() and value.isdigit() and len(value) <= 13):
            raise InputError(Problem(f"{part!r} is not SIZE=N"[:100], "SIZES", allowed="for example m=64,n=64,k=64"))
        if name in sizes:
            raise InputError(Problem(f"{name!r} is given twice"[:100], "SIZES"))
        sizes[name] = int(value)
    return sizes


@kernel.command()
@click.argument("case_file", metavar="CASE.npz")
@click.argument("output_file", metavar="OUTPUT")
@json_option
@click.pass_context
def check(context: click.Context, case_file: str, output_file: str, as_json: bool) -> None:
    """Judge OUTPUT against a golden case: PASS, MARGINAL or FAIL (exit code 1), and a guess at the cause.

    OUTPUT is a .npy or .npz array, or raw binary with its description beside it: OUTPUT.json holding
    {"dtype": "float32", "shape": [64, 64], "order": "C"}.
    """
    import npukernels
    from npukernels import case_files

    case = case_files.load_case(case_file)
    found = npukernels.check(case_files.load_output(output_file), case)
    notes = _notes(case)
    if as_json:
        click.echo(json.dumps({**found.to_dict(), "case": _about(case), "notes": notes}, indent=1, allow_nan=False))
    else:
        click.echo("\n".join([str(found), *(f"  note: {note}" for note in notes)]))
    if found.verdict == npukernels.verdict.FAIL:
        context.exit(1)


def _about(case: Case) -> dict[str, Any]:
    return {"op": case.op, "dtype": case.dtype, "fill": case.fill, "seed": case.seed, "dims": dict(case.dims)}


def _notes(case: Case) -> list[str]:
    from npukernels import case_files

    same = case_files.same_case(case)
    return [] if same else ["the file differs from what its repro line makes: another version, or edited"]
