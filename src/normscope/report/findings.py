"""A check's record as text, as SARIF for code hosts and editors, and as one page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from normscope.bibliography import WORKS
from normscope.records import Figure, Mark, Series
from normscope.report import words
from normscope.report.page import plot
from normscope.report.template import fill
from normscope.report.waterfall import waterfall

if TYPE_CHECKING:
    from normscope.bibliography import Work
    from normscope.records import CheckReport, Finding, GapSplit, Share
    from normscope.report.page import Plot

_MOST = 200


@dataclass(frozen=True)
class Group:
    """The findings of one rule."""

    code: str
    title: str
    findings: tuple[Finding, ...]
    works: tuple[Work | str, ...]


def groups(report: CheckReport) -> tuple[Group, ...]:
    """The findings by rule, in the order of the codes."""
    codes = dict.fromkeys(finding.code for finding in report.findings)
    rows = [tuple(f for f in report.findings if f.code == code) for code in codes]
    return tuple(
        Group(row[0].code, row[0].title, row, tuple(WORKS.get(key, key) for key in row[0].sources)) for row in rows
    )


def headline(report: CheckReport) -> str:
    """The outcome in one sentence."""
    faults = sum(not finding.style for finding in report.findings)
    style = len(report.findings) - faults
    parts = [_many(faults, "fault"), *([f"{style} of style"] if style else [])]
    return f"{' and '.join(parts)} found by {_many(len(report.ran), 'rule')}"


def skipped(report: CheckReport) -> tuple[tuple[str, str], ...]:
    """The rules that did not run, those with one reason together: ('BN002, BN006', 'needs training data: ...')."""
    reasons: dict[str, list[str]] = {}
    for code, reason in report.skipped:
        reasons.setdefault(reason, []).append(code)
    return tuple(
        (", ".join(codes), reason.replace("needs", "need", 1) if len(codes) > 1 else reason)
        for reason, codes in reasons.items()
    )


def _many(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def as_text(report: CheckReport) -> str:
    """For a terminal: one line for each finding, then why and what to do, once for each rule."""
    lines = [report.subject, ""]
    for group in groups(report):
        mark = "  (style)" if group.findings[0].style else ""
        lines += [f"{group.code} {group.title}{mark}"]
        lines += [f"  {finding.layer or 'network'}: {finding.message}" for finding in group.findings]
        fix = "safe with --fix" if group.findings[0].safe else "by hand"
        lines += [f"  why: {group.findings[0].why}", f"  fix ({fix}): {group.findings[0].fix}"]
        lines += [*(f"  source: {work}" for work in group.works), ""]
    if report.gap is not None:
        lines += [*_gap_lines(report.gap), ""]
    for fixed in report.fixes:
        lines.append(
            f"fix {fixed.name} for {', '.join(fixed.codes)}: {_outcome(fixed.before, fixed.after)} {fixed.note}"
        )
    lines += [f"not run: {codes} {reason}" for codes, reason in skipped(report)]
    lines += [f"note: {note}" for note in report.notes]
    passes = f"; {report.forwards} forward passes, {words.duration(report.seconds)}" if report.forwards else ""
    return "\n".join([*lines, f"{headline(report)}{passes}"])


def _outcome(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return ""
    return f"held-out loss {words.number(before) if before is not None else 'not finite'} -> {words.number(after)};"


def _gap_lines(gap: GapSplit) -> list[str]:
    end = "not finite" if gap.evaluation is None else f"{gap.evaluation:.4g}"
    lines = [f"loss in train mode {gap.train:.4g}, in eval mode {end}; the difference by cause:"]
    lines += [f"  {share.value:+.4g}  {share.name}{_interval(share)}" for share in gap.causes]
    if gap.layers:
        lines.append("by layer:")
        top = sorted(gap.layers, key=lambda share: -abs(share.value))[:10]
        lines += [f"  {share.value:+.4g}  {share.name}{_interval(share)}" for share in top]
    return [*lines, *(f"  {note}" for note in gap.notes)]


def _interval(share: Share) -> str:
    return "" if share.low is None or share.high is None else f"  [{share.low:.2g}, {share.high:.2g}]"


def as_sarif(report: CheckReport, artifact: str = "") -> str:
    """SARIF 2.1.0: layers are logical locations; a matter of style is a note, all else a warning.

    Args:
        report: The record.
        artifact: The file of the network or the checkpoint, where code hosts place findings.
    """
    listed = groups(report)
    rules = [
        {
            "id": group.code,
            "shortDescription": {"text": group.title},
            "fullDescription": {"text": group.findings[0].why},
            "help": {"text": group.findings[0].fix},
        }
        for group in listed
    ]
    driver = {"name": "normscope", "version": report.versions.get("normscope", ""), "rules": rules}
    body = {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": {"driver": driver}, "results": [_result(f, artifact) for f in report.findings]}],
    }
    return json.dumps(body, indent=1, ensure_ascii=False)


def _result(finding: Finding, artifact: str) -> dict[str, Any]:
    place: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": finding.layer or "network", "kind": "module"}]}
    if artifact:
        place["physicalLocation"] = {"artifactLocation": {"uri": quote(artifact)}, "region": {"startLine": 1}}
    return {
        "ruleId": finding.code,
        "level": "note" if finding.style else "warning",
        "message": {"text": f"{finding.layer or 'network'}: {finding.message}"},
        "locations": [place],
        "properties": {name: words.finite(value) for name, value in finding.numbers},
    }


def by_layer(gap: GapSplit) -> Figure | None:
    """Each layer's share of the gap with its interval; None where it was not split by layer."""
    if not gap.layers:
        return None
    rows = gap.layers
    series = Series(
        "share of the gap",
        "interval",
        tuple(share.name for share in rows),
        tuple(share.value for share in rows),
        tuple(share.value if share.low is None else share.low for share in rows),
        tuple(share.value if share.high is None else share.high for share in rows),
    )
    text = "Shapley values over sampled orders of the layers, with 95 % intervals over the orders."
    return Figure("The gap by layer", text, "layer", "loss", (series,), (Mark("y", 0.0, "no share"),))


def render_check(report: CheckReport) -> str:
    """`report` as one self-contained HTML page."""
    figure = None if report.gap is None else by_layer(report.gap)
    plots: list[Plot] = [] if figure is None else [plot(figure, "gap-layers", _MOST)]
    return fill(
        "check.html.j2",
        report=report,
        headline=headline(report),
        groups=groups(report),
        steps=() if report.gap is None else waterfall(report.gap),
        plots=plots,
        skipped=skipped(report),
        most=_MOST,
    )
