"""Claim: check finds every fault of the catalogue above its detection limit, and nothing in healthy networks.

A third of the faults and two of the five shared architectures are set aside: the rules were finished without a look at
them (`--part aside`). Prints, by rule, recall, precision and the detection limit; for each safe fix the held-out loss
before and after; and the findings on healthy networks, trained to the accuracy that is printed.

Cases go to a file one by one and an interrupted run goes on from there; the table is rendered from that file.

    python benchmarks/faults/run.py --part both --keep runs/faults.jsonl --json benchmarks/results/faults.json
    python benchmarks/faults/run.py --render benchmarks/results/faults.json > docs/faults.md
"""

import argparse
import dataclasses
import json
import math
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import catalog
import networks
import table
import torch
import training

from normscope.check import run as checks
from normscope.check.evidence import Evidence
from normscope.check.repair import repair
from normscope.check.rule import chosen


def aside(at):
    """Every third fault of the catalogue is set aside."""
    return at % 3 == 2


def cases(part):
    """(fault, architecture, severity) of a part."""
    for at, fault in enumerate(catalog.FAULTS):
        names = [*networks.ASIDE, *networks.TUNED] if fault.networks == "any" else ["own"]
        for name in names:
            away = aside(at) or name in networks.ASIDE
            if name not in fault.immune and ((part == "both") or (part == "aside") == away):
                for severity in range(3):
                    yield fault, name, severity, away


def one(fault, name, severity):
    """Check one case and try its fix."""
    torch.manual_seed(severity)
    made = fault.make(name, severity)
    data = (
        None
        if made.data is None
        else training.loader(made.data.x[:768], made.data.y[:768], batch_size=made.data.batch_size)
    )
    if data is not None and len(made.data.x) % made.data.batch_size:
        data = made.data
    held = {"held_out": held_out(made.data.batch_size)} if fits(made) else {}
    subject = checks.gathered(made.model, data, max_forwards=64, **held, **made.options)
    report = checks.examine(subject, tuple(chosen()))
    codes = sorted({finding.code for finding in report.findings})
    fixed = []
    if subject.model is not None and subject.loss is not None and any(f.safe for f in report.findings):
        fixed = [(row.name, row.before, row.after, row.kept) for row in repair(subject, report.findings)[1]]
    row = {"fault": fault.name, "network": name, "severity": severity, "codes": codes, "fixed": fixed}
    return row | {"cost": cost(subject)}


def held_out(batch):
    """In the usual batches, or in smaller ones where training had these: what train mode does depends on it."""
    return (
        training.held_out()
        if batch >= training.BATCH
        else dataclasses.replace(training.held_out(batch), drop_last=True)
    )


def cost(subject):
    """What the statistics cost, in nats on held-out data: loss as deployed over the better of both remedies.

    The remedies are population statistics and the mini-batch's own. None where no loss can be taken, 'not finite'
    where the deployed network's is not.
    """
    if subject.model is None or subject.loss is None or not subject.batches:
        return None
    losses = Evidence(subject).losses
    deployed, *others = (math.fsum(part) / len(part) for part in dataclass_values(losses))
    if not math.isfinite(deployed):
        return "not finite"
    return max(0.0, deployed - min(others))


def dataclass_values(record):
    """The values of a flat dataclass, in order."""
    return [getattr(record, part.name) for part in dataclasses.fields(record)]


class Kept:
    """Finished cases in a file, so that an interrupted run goes on where it was."""

    def __init__(self, path):
        self.path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.rows = {(row["fault"], row["network"], row["severity"]): row for row in map(json.loads, lines)}

    def row(self, fault, name, severity):
        key = (fault.name, name, severity)
        if key not in self.rows:
            self.rows[key] = one(fault, name, severity)
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps(self.rows[key]) + "\n")
        return self.rows[key]


def fits(made):
    """Whether the digits held out are data of this case's kind."""
    return made.data is not None and made.data.x.shape[1:] == training.digits()[0].shape[1:]


def healthy():
    """A dozen properly trained networks: accuracy and what check finds."""
    rows = []
    for seed in range(3):
        for name in networks.ALL:
            model = training.healthy(name, seed)
            x, y = training.digits()[:2]
            optimizer = torch.optim.SGD(model.parameters(), 1e-3)

            def step(model=model, optimizer=optimizer, x=x, y=y):
                model.train()
                training.usual(model, x[:32], y[:32], optimizer)

            subject = checks.gathered(
                model,
                training.loader(),
                held_out=training.held_out(),
                serving=training.loader(x[640:], y[640:]),
                optimizer=optimizer,
                step=step,
                max_forwards=64,
            )
            found = [(f.code, f.layer, f.message) for f in checks.examine(subject, tuple(chosen())).findings]
            rows.append({"network": name, "seed": seed, "accuracy": training.accuracy(model), "found": found})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tuned", "aside", "both"), default="tuned")
    parser.add_argument("--only", default="", help="faults whose name or code holds this")
    parser.add_argument("--keep", type=Path, help="keep finished cases here, one a line, and go on from them")
    parser.add_argument("--json", type=Path, help="write every case here")
    parser.add_argument("--render", type=Path, help="only render the table of a file that --json wrote")
    given = parser.parse_args()
    if given.render:
        print(table.render(json.loads(given.render.read_text())))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    rows = []
    kept = Kept(given.keep)
    for fault, name, severity, away in cases(given.part):
        if given.only and given.only not in fault.name and given.only != fault.code:
            continue
        rows.append(kept.row(fault, name, severity) | {"aside": away})
    controls = [] if given.only else healthy()
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    found = {"cases": rows, "healthy": controls}
    print(table.render(found))
    print(table.missed(rows), file=sys.stderr)
    if given.json:
        given.json.write_text(json.dumps(found).replace('{"fault"', '\n{"fault"') + "\n")


if __name__ == "__main__":
    main()
