"""The commands `check` and `rule`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from normscope.errors import InputError

Format = Literal["text", "json", "sarif", "html"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(name="check")(check)
    app.command(name="rule")(rule)


def check(
    model: Annotated[
        str | None,
        typer.Argument(help="Factory of the network: pkg.module:make_model or file.py:make_model; or a checkpoint."),
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Weights: .safetensors, or a torch state_dict.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Factory of training data: a loader, or (training loader, held-out loader).")
    ] = None,
    serving_data: Annotated[str | None, typer.Option(help="Factory of data from where the network is used.")] = None,
    loss: Annotated[str | None, typer.Option(help="Your loss(output, target).")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Your metric(output, target), shown before and after fixes.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    fix: Annotated[Path | None, typer.Option(help="Apply the safe fixes and write the fixed checkpoint here.")] = None,
    select: Annotated[str, typer.Option(help="Rules to run: codes or prefixes, comma-separated.")] = "",
    ignore: Annotated[str, typer.Option(help="Rules to leave out.")] = "",
    max_forwards: Annotated[int | None, typer.Option(help="Bound on the forward passes of the gap's split.")] = None,
    format: Annotated[Format, typer.Option(help="How findings are printed.")] = "text",  # noqa: A002  (the option's name)
    out: Annotated[Path | None, typer.Option(help="Write the findings to this file instead.")] = None,
) -> None:
    """Find what batch norm does wrong in a network; exit code 1 when something was found, 2 when it could not look."""
    from normscope.check import load, run
    from normscope.check.rule import chosen
    from normscope.model import spec as specs
    from normscope.records import to_json, write_atomic
    from normscope.report import findings

    rules = tuple(chosen(_codes(select), _codes(ignore)))
    target = None if fix is None else load.free_output(fix)
    _apart(out, fix, checkpoint, *((part or "").rpartition(":")[0] or part for part in (model, data, serving_data)))
    network = load.model_of(model, checkpoint, device)
    if data is None and any((serving_data, loss, metric)):
        raise InputError("expected --data beside --serving-data, --loss and --metric")
    if isinstance(network, dict) and (data is not None or fix is not None):
        raise InputError("expected MODEL beside --data and --fix: a checkpoint alone cannot be evaluated")
    train, held_out = (None, None) if data is None else load.data_of(data, "--data")
    subject = run.gathered(
        network,
        train,
        held_out=held_out,
        serving=None if serving_data is None else load.data_of(serving_data, "--serving-data")[0],
        loss=None if loss is None else specs.resolve(loss, "--loss"),
        max_forwards=max_forwards,
    )
    if metric is not None:
        subject = dataclasses.replace(subject, metric=specs.resolve(metric, "--metric"))
    report = run.examine(subject, rules, partial(typer.echo, err=True))
    if target is not None:
        checked = run.fix(subject, rules, report, partial(typer.echo, err=True))
        report = checked.report
        if checked.model is not None and any(one.kept for one in report.fixes):
            load.save_state(checked.model, target)
            note = f"the fixed checkpoint is {target}"
        else:
            note = f"{target} was not written: " + ("no fix was kept" if report.fixes else "nothing that --fix mends")
        report = dataclasses.replace(report, notes=(*report.notes, note))
    report = dataclasses.replace(report, command=shlex.join(["normscope", *sys.argv[1:]]))
    render: dict[str, Callable[[Any], str]] = {
        "text": findings.as_text,
        "json": to_json,
        "sarif": partial(findings.as_sarif, artifact=_artifact(model, checkpoint)),
        "html": findings.render_check,
    }
    text = render[format](report)
    if out is None:
        typer.echo(text)
    else:
        write_atomic(out, text + "\n")
        typer.echo(f"{findings.headline(report)}: {out}", err=True)
    raise typer.Exit(1 if report.findings else 0)


def _artifact(model: str | None, checkpoint: str | None) -> str:
    """The file that findings are about: the network's, or the checkpoint; '' for an importable module."""
    file = (model or "").rpartition(":")[0] or model or checkpoint or ""
    return Path(file).as_posix() if Path(file).is_file() else checkpoint or ""


def _apart(out: Path | None, *others: Path | str | None) -> None:
    """Nothing, if the report does not go where something else is or will be.

    Raises:
        InputError: It does.
    """
    for other in others:
        if out is not None and other is not None and out.resolve() == Path(other).resolve():
            raise InputError(
                f"expected --out to name a file of its own, came {out}, which is needed for something else"
            )


def _codes(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def rule(code: Annotated[str, typer.Argument(help="Its code, for example BN002.")]) -> None:
    """Explain one rule: what it looks for, where the line is drawn, why it hurts, the fix."""
    from normscope.bibliography import cite
    from normscope.check.rule import HOW
    from normscope.check.rule import rule as find

    one = find(code)
    lines = [f"{one.code} {one.title}", "", one.why, "", f"Threshold: {one.threshold}", f"Fix: {one.fix}"]
    lines.append("Applied by --fix." if one.repair else "Not applied by --fix.")
    if one.style:
        lines.append("A matter of style: accuracy does not depend on it.")
    lines += [f"Needs {HOW[need]}." for need in one.needs]
    lines += [f"Seen as: {quote}" for quote in one.quotes]
    lines += [f"Source: {cite(key)}" for key in one.sources]
    typer.echo("\n".join(lines))
