"""The command line: parse, call, print."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from normscope.check.command import register
from normscope.errors import InputError, NormscopeError

if TYPE_CHECKING:
    from normscope.records import Study
    from normscope.why.claim import Plan, Task

app = typer.Typer(
    help="See, on your own network, why batch norm works and what it does wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Effort = Literal["quick", "standard", "thorough"]
# What typer returns for a Ctrl-C that nobody below has answered.
_STOPPED = 130


@app.callback()
def _root() -> None:
    pass


@app.command()
def why(
    model: Annotated[
        str | None, typer.Option(help="Factory of your network: pkg.module:make_model or file.py:make_model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Factory of your data: a loader, or (training loader, held-out loader).")
    ] = None,
    shifted_data: Annotated[
        str | None, typer.Option(help="Factory of data from where the network is used, for the shift claim.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Your loss(output, target).")] = None,
    metric: Annotated[str | None, typer.Option(help="Your metric(output, target); larger is better.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights to start from (.safetensors, or a torch state_dict).")
    ] = None,
    effort: Annotated[Effort, typer.Option(help="How many seeds and steps.")] = "standard",
    budget: Annotated[float | None, typer.Option(help="Minutes it may take; fewer seeds are run to fit.")] = None,
    claims: Annotated[str | None, typer.Option(help="Claims to test, comma-separated; all by default.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", min=2)] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; one a processor core by default.", min=1)] = None,
    device: Annotated[str, typer.Option(help="Where your network runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    amp: Annotated[bool, typer.Option("--amp", help="Run your network under autocast to bfloat16.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the record, the page and the finished runs.")] = Path(
        "normscope-why"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Test every reason given for batch norm, on the embedded digits or on your own network; write a page."""
    from normscope.model.given import Spec
    from normscope.why import study as studies

    if (model is None) != (data is None):
        raise InputError("expected --model and --data together; give both, or neither for the embedded digits")
    if model is None and any((shifted_data, loss, metric, checkpoint, amp, device != "cpu")):
        raise InputError("expected --model and --data beside --shifted-data, --loss, --metric, --checkpoint, --device")
    spec = None
    if model is not None and data is not None:
        spec = Spec(model, data, shifted_data, loss, metric, checkpoint, device, amp)
    workers = jobs or (1 if device.startswith(("cuda", "mps")) else os.cpu_count() or 1)
    wanted = tuple(key.strip() for key in claims.split(",") if key.strip()) if claims else ()
    command = shlex.join(["normscope", *sys.argv[1:]])
    options = studies.Options(spec, effort, wanted, seeds, budget, workers, out, command)
    _why(options, as_json=as_json, open_page=open_page)


def _why(options: object, *, as_json: bool, open_page: bool) -> None:
    from rich.console import Console

    from normscope import records, report
    from normscope.why import study as studies
    from normscope.why.progress import Display, minutes

    assert isinstance(options, studies.Options)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    display = Display(console)

    def begin(task: Task, plan: Plan, seconds: float, kept: int) -> None:
        console.print(f"{task.describe}\n{task.data}", soft_wrap=True)
        for note in task.notes:
            console.print(f"note: {note}", soft_wrap=True)
        asked, seeds = len(studies.plan_of(options).seeds), f"{len(plan.seeds)} seeds"
        seeds += f" of {asked}, as the budget allows" if len(plan.seeds) < asked else ""
        there = f"; {kept} runs are there already" if kept else ""
        console.print(f"{seeds}, about {minutes(seconds)} on {options.jobs} workers{there}")
        display.begin()

    signal.signal(signal.SIGINT, _interrupt)
    threading.excepthook = _of_a_thread
    page = options.out / "page.html"
    try:
        record = studies.study(options, begin, display.tell)
        text = records.to_json(record)
        records.write_atomic(options.out / "run.json", text)
        records.write_atomic(page, report.render_study(record, studies.side_by_side(options.jobs)))
    except KeyboardInterrupt:
        display.end()
        kept = len(list((options.out / "runs").glob("*.json")))
        raise InputError(
            f"stopped; {kept} finished runs are kept in {options.out / 'runs'}: the same command goes on from there"
        ) from None
    finally:
        display.end()
    if as_json:
        typer.echo(text)
    else:
        _table(record)
    console.print(f"page: {page}\nrecord: {options.out / 'run.json'}", soft_wrap=True)
    if open_page:
        typer.launch(str(page.resolve()))


def _interrupt(_signal: int, _frame: object) -> None:
    """Ctrl-C: the pool's own threads, which lose their work in mid-air, have nothing to say about it."""
    threading.excepthook = lambda _args: None
    raise KeyboardInterrupt


def _of_a_thread(args: threading.ExceptHookArgs) -> None:
    """The pool's own thread stumbles over work that an error has just taken away from it, and would say so."""
    if not (args.thread and args.thread.name == "ExecutorManagerThread" and args.exc_type is KeyError):
        threading.__excepthook__(args)


def _table(record: Study) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from normscope.report import answer, words

    table = Table(Column("claim", width=32), "verdict", "effect [95 % interval]", title=record.question)
    for verdict in record.verdicts:
        effect, regimes = verdict.effect, answer.regimes(verdict)
        number = f"{words.estimate(effect)} {words.interval(effect)}" if effect else ""
        of = Text(words.typeset(effect.name if effect else verdict.summary), style="dim")
        name = Text(verdict.claim).append("\n").append(of)
        table.add_row(name, Text(verdict.outcome + (f": {regimes}" if regimes else "")), Text(number))
    Console(highlight=False, emoji=False).print(table)


@app.command()
def report(
    record: Annotated[Path, typer.Argument(help="The run.json that `normscope why` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; beside the record by default.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Also write every figure as SVG and PNG here.")] = None,
) -> None:
    """Render the page of a record again, from the record alone."""
    from normscope import report as pages

    page = pages.report(record, out, figures)
    typer.echo(f"page: {page}")


@app.command()
def claim(
    key: Annotated[
        str | None, typer.Argument(help="Its key, for example same-range; without it, all are listed.")
    ] = None,
) -> None:
    """Say what a claim states before it runs: arms, statistic, smallest effect of interest, what would refute it."""
    from normscope.why import registry

    if key is None:
        typer.echo("\n".join(f"{name:34s} {registry.claim(name).title}" for name in registry.KEYS))
    else:
        typer.echo(registry.claim(key).statement)


register(app)


def main() -> None:
    """Run the command line; what a person can mend is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except NormscopeError as error:
        typer.echo(f"normscope: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        said: Any = error  # click's errors, of which some releases of typer have copies
        if type(error).__name__ == "NoArgsIsHelpError":
            said.show()
        elif hasattr(error, "format_message"):
            typer.echo(f"normscope: {said.format_message().rstrip('.')}; see --help", err=True)
        else:
            raise
        sys.exit(2)
    if code == _STOPPED:
        typer.echo("normscope: stopped, with nothing half-written; the same command begins again", err=True)
        sys.exit(2)
    sys.exit(code)
