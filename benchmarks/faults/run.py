"""Claim: check finds every fault of the catalogue above its detection limit, and nothing in healthy networks.

A third of the faults and two of the five shared architectures are set aside: the rules were finished without a look at
them (`--part aside`). Prints, by rule, recall, precision and the detection limit; for each safe fix the held-out loss
before and after; and the findings on healthy networks, trained to the accuracy that is printed.

    python benchmarks/faults/run.py --part tuned
"""

import argparse
import json
import math
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import catalog
import networks
import torch
import training

from normscope.check import run as checks
from normscope.check.repair import repair
from normscope.check.rule import chosen, rules

LEVELS = ("mild", "middling", "severe")


def aside(at):
    """Every third fault of the catalogue is set aside."""
    return at % 3 == 2


def cases(part):
    """(fault, architecture, severity) of a part."""
    for at, fault in enumerate(catalog.FAULTS):
        names = [*networks.ASIDE, *networks.TUNED] if fault.networks == "any" else ["own"]
        for name in names:
            away = aside(at) or name in networks.ASIDE
            if (part == "both") or (part == "aside") == away:
                for severity in range(3):
                    yield fault, name, severity


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
    held = {"held_out": training.held_out()} if fits(made) else {}
    subject = checks.gathered(made.model, data, max_forwards=64, **held, **made.options)
    report = checks.examine(subject, tuple(chosen()))
    codes = sorted({finding.code for finding in report.findings})
    fixed = []
    if subject.model is not None and subject.loss is not None and any(f.safe for f in report.findings):
        fixed = [(row.name, row.before, row.after, row.kept) for row in repair(subject, report.findings)[1]]
    return {"fault": fault.name, "network": name, "severity": severity, "codes": codes, "fixed": fixed}


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


def summary(rows):
    """By rule: recall by severity, precision, detection limit."""
    style = {rule.code for rule in rules() if rule.style}
    by_name = {fault.name: fault for fault in catalog.FAULTS}
    hits, false = defaultdict(lambda: [[0, 0] for _ in LEVELS]), defaultdict(int)
    for row in rows:
        fault = by_name[row["fault"]]
        count = hits[fault.code][row["severity"]]
        count[1] += 1
        count[0] += fault.code in row["codes"]
        for code in row["codes"]:
            if code != fault.code and code not in fault.also and code not in style:
                false[code] += 1
    print(f"{'rule':6} {'recall mild':>12} {'middling':>9} {'severe':>7} {'precision':>10}  detection limit")
    for code in sorted({*hits, *false}):
        levels = hits.get(code, [[0, 0]] * 3)
        right = sum(a for a, _ in levels)
        precision = right / (right + false[code]) if right + false[code] else math.nan
        limit = next((LEVELS[at] for at in range(3) if all(a == b for a, b in levels[at:])), "above severe")
        cells = [f"{a}/{b}" for a, b in levels]
        print(
            f"{code:6} {cells[0]:>12} {cells[1]:>9} {cells[2]:>7} {precision:>10.2f}  {limit if code in hits else ''}"
        )


def missed(rows):
    """Every case whose fault was not found, and every finding that has no reason to be there."""
    by_name = {fault.name: fault for fault in catalog.FAULTS}
    style = {rule.code for rule in rules() if rule.style}
    for row in rows:
        fault = by_name[row["fault"]]
        label = f"{fault.name} ({fault.source}), {row['network']}, {LEVELS[row['severity']]}"
        if fault.code not in row["codes"]:
            print(f"missed: {fault.code} {label}; found {row['codes']}")
        extra = [c for c in row["codes"] if c != fault.code and c not in fault.also and c not in style]
        if extra:
            print(f"extra: {extra} {label}")


def repairs(rows):
    """Held-out loss before and after each fix."""
    print(f"{'fix':12} {'tried':>6} {'kept':>5} {'loss before':>12} {'after':>8}  median over the cases that were kept")
    for name in sorted({fix[0] for row in rows for fix in row["fixed"]}):
        tried = [fix for row in rows for fix in row["fixed"] if fix[0] == name]
        kept = [fix for fix in tried if fix[3] and fix[2] is not None]
        before = torch.tensor([math.inf if fix[1] is None else fix[1] for fix in kept])
        after = torch.tensor([fix[2] for fix in kept])
        worse = sum(float(b) < float(a) for a, b in zip(after, before, strict=True))
        median = [float(values.median()) if len(values) else math.nan for values in (before, after)]
        print(f"{name:12} {len(tried):>6} {len(kept):>5} {median[0]:>12.4f} {median[1]:>8.4f}  made worse: {worse}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tuned", "aside", "both"), default="tuned")
    parser.add_argument("--only", default="", help="faults whose name or code holds this")
    parser.add_argument("--keep", type=Path, help="keep finished cases here, one a line, and go on from them")
    parser.add_argument("--json", type=Path, help="write every case here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    rows = []
    kept = Kept(given.keep)
    for fault, name, severity in cases(given.part):
        if given.only and given.only not in fault.name and given.only != fault.code:
            continue
        rows.append(kept.row(fault, name, severity))
    print(f"{len({row['fault'] for row in rows})} faults, {len(rows)} cases, {time.perf_counter() - start:.0f} s\n")
    summary(rows)
    print()
    missed(rows)
    print()
    repairs(rows)
    controls = [] if given.only else healthy()
    for row in controls:
        print(
            f"healthy {row['network']:10} seed {row['seed']}  accuracy {row['accuracy']:.3f}  findings"
            f" {row['found'] or 'none'}"
        )
    if given.json:
        given.json.write_text(json.dumps({"cases": rows, "healthy": controls}, indent=1))


if __name__ == "__main__":
    main()
