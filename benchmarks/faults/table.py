"""The fault table as Markdown, from the rows of a run alone."""

import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import median

import catalog

from normscope.check.rule import rules

LEVELS = ("mild", "middling", "severe")
FIRST = Path(__file__).parents[1] / "results" / "faults_first.json"

_HEAD = """# How well `normscope check` finds faults

{faults} faults, each from a report in a public issue tracker, at three severities on five small architectures: {cases}
cases. Every third fault, and two of the architectures, were set aside until the rules were done.

- *Recall* (mild, middling, severe): cases in which the rule spoke up, of those with its fault.
- *Detection limit*: the mildest severity from which on every case is found.
- *As another*: missed cases in which other rules spoke up, about what the fault had done.
- *Silent at most*: the largest cost of a case in which none did, in nats of held-out loss: the loss as deployed minus
  the loss with population statistics or with the mini-batch's own, whichever is better. A healthy network's loss is .02
  to .07.
- *Precision*: right findings over all; one is right where its rule's fault was made, or a fault that brings it along.
- Style rules cost no accuracy and are counted apart.
"""

_FOOT = """
## The faults

How many of the cases were found by the fault's own rule, both parts together; each network is a case.

| rule | fault | report | mild | middling | severe |
|---|---|---|---|---|---|
{sources}

Made by

    python benchmarks/faults/run.py --part both --keep runs/faults.jsonl --json benchmarks/results/faults.json
    python benchmarks/faults/run.py --render benchmarks/results/faults.json > docs/faults.md
"""

_FIRST = """
## The part set aside, as it came out first

{right} of {cases} cases were found, with one finding that nothing was thought to justify: BN009 where cancellation ends
at a variance of 0, which is right, and expected since. Mended after this was seen: BN019 took a batch norm for foldable
where TorchScript's graph hands its input to others too, and the dense network, in which nothing can be folded, is no
longer asked for findings of BN019. Mended after healthy networks from transformers were seen: BN001 took a gamma that
starts at random for training and minded variances where eps rules, BN009 minded single channels with variances just
below eps, BN012 took recalibrated statistics for an average that has not warmed up. No line was moved towards a fault.

BN002 was mended after its missed cases had been looked at, so that its row at the top is no longer that of a rule which
never saw them. It took values for normal ones, as many as the means of images are independent, and found a scale of
1.10 in a depthwise layer where batches of 2 have 1.14: the scale is drawn from the data now, in the median channel,
since heavy tails in a few channels of a healthy EfficientNet have 1.106 in the mean. The line is 1.1 as before. Its
fault "small batches" went down to batches of 2 and goes down to the reported 1 now, where a network can be trained on
these, with held-out batches as small. What is still missed is the dense network, all of whose layers have 64
positions: a last batch of one image scales them by 1.08, and costs nothing. What BN002 says of the depthwise network
trained at a rate of 1.5 counts as wrong above and is true: at 10 % accuracy its last channels have such tails that
batches of 32 scale them by 1.29.

{table}
"""


def render(found):
    """The whole page: the part set aside, the tuned part, the fixes, the healthy networks."""
    rows = found["cases"]
    out = [_HEAD.format(faults=len({row["fault"] for row in rows}), cases=len(rows))]
    for title, aside in (("The part set aside", True), ("The part the rules were made with", False)):
        part = [row for row in rows if row["aside"] == aside]
        if part:
            out += [f"\n## {title}: {len(part)} cases\n", by_rule(part)]
    out += [wrong(rows), "\n## Fixes\n", repairs(rows)]
    if found["healthy"]:
        out += ["\n## Healthy networks\n", controls(found["healthy"])]
    if FIRST.exists():
        out.append(first(json.loads(FIRST.read_text())["cases"]))
    faults_by_code = sorted(catalog.FAULTS, key=lambda fault: fault.code)
    sources = "\n".join(
        f"| {fault.code} | {fault.name} | {fault.source} | {' | '.join(found_of(fault, rows))} |"
        for fault in faults_by_code
    )
    return "\n".join([*out, _FOOT.format(sources=sources)])


def found_of(fault, rows):
    """'found/cases' at each severity."""
    for severity in range(len(LEVELS)):
        of = [row for row in rows if row["fault"] == fault.name and row["severity"] == severity]
        yield f"{sum(fault.code in row['codes'] for row in of)}/{len(of)}" if of else ""


def first(rows):
    known = faults()
    right = sum(known[row["fault"]].code in row["codes"] for row in rows)
    return _FIRST.format(right=right, cases=len(rows), table=by_rule(rows))


def faults():
    return {fault.name: fault for fault in catalog.FAULTS}


def extras(rows):
    """(row, code) of every finding that has no reason to be there."""
    known, style = faults(), {rule.code for rule in rules() if rule.style}
    return [
        (row, code)
        for row in rows
        for code in row["codes"]
        if code not in (known[row["fault"]].code, *known[row["fault"]].also, *style)
    ]


def wrong(rows):
    """The findings that count against precision, in a sentence."""
    found = [f"{code} ({row['fault']}, {row['network']}, {LEVELS[row['severity']]})" for row, code in extras(rows)]
    return f"\nCounted as wrong: {', '.join(found) or 'nothing'}."


def by_rule(rows):
    """By rule: recall by severity, precision, detection limit, cost of what was missed."""
    known, style = faults(), {rule.code for rule in rules() if rule.style}
    hits, missed, false = defaultdict(lambda: [[0, 0] for _ in LEVELS]), defaultdict(list), defaultdict(int)
    for row in rows:
        code = known[row["fault"]].code
        count = hits[code][row["severity"]]
        count[1] += 1
        count[0] += code in row["codes"]
        if code not in row["codes"]:
            missed[code].append(row.get("cost") if style.issuperset(row["codes"]) else "as another")
    for _, code in extras(rows):
        false[code] += 1
    lines = [
        "| rule | mild | middling | severe | detection limit | as another | silent at most | precision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for code in sorted({*hits, *false}, key=lambda code: (code in style, code)):
        levels = hits.get(code, [[0, 0]] * 3)
        right = sum(a for a, _ in levels)
        precision = right / (right + false[code]) if right + false[code] else math.nan
        limit = next((LEVELS[at] for at in range(3) if all(a == b for a, b in levels[at:])), "above severe")
        cells = " | ".join(f"{a}/{b}" for a, b in levels)
        lines.append(
            f"| {code}{' (style)' * (code in style)} | {cells} | {limit if code in hits else ''}"
            f" | {missed[code].count('as another') or ''} | {worst(missed[code])} | {precision:.2f} |"
        )
    return "\n".join(lines)


def worst(costs):
    """The largest of the costs in words."""
    if "not finite" in costs:
        return "not finite"
    numbers = [cost for cost in costs if isinstance(cost, float)]
    return f"{max(numbers):.3f}" if numbers else ""


def repairs(rows):
    """Held-out loss before and after each safe fix, by the rule whose fault was made."""
    known = faults()
    lines = [
        "What `--fix` applies, by the rule whose fault was made: median held-out loss where the fix was kept.\n",
        "| fault of | fix | tried | kept | loss before | after | made worse |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = defaultdict(list)
    for row in rows:
        for name, before, after, kept in row["fixed"]:
            groups[known[row["fault"]].code, name].append((before, after, kept))
    for (code, name), tried in sorted(groups.items()):
        kept = [(math.inf if a is None else a, b) for a, b, good in tried if good and b is not None]
        before, after = (f"{median(row[at] for row in kept):.3f}" if kept else "" for at in (0, 1))
        worse = sum(b > a for a, b in kept)
        lines.append(f"| {code} | {name} | {len(tried)} | {len(kept)} | {before} | {after} | {worse} |")
    return "\n".join(lines)


def controls(rows):
    """The healthy networks: accuracy and findings."""
    lines = ["| network | seed | accuracy | findings |", "|---|---|---|---|"]
    for row in rows:
        found = "; ".join(f"{code} {layer}: {message}" for code, layer, message in row["found"]) or "none"
        lines.append(f"| {row['network']} | {row['seed']} | {row['accuracy']:.3f} | {found} |")
    return "\n".join(lines)


def missed(rows):
    """Every case whose fault was not found, and every finding that has no reason to be there, as text."""
    known, lines = faults(), []
    for row in rows:
        fault = known[row["fault"]]
        if fault.code not in row["codes"]:
            label = f"{fault.name} ({fault.source}), {row['network']}, {LEVELS[row['severity']]}"
            lines.append(f"missed: {fault.code} {label}; cost {row.get('cost')}; found {row['codes']}")
    lines += [
        f"extra: {code} {row['fault']}, {row['network']}, {LEVELS[row['severity']]}" for row, code in extras(rows)
    ]
    return "\n".join(lines)
