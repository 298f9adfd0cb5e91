"""Running statistics that are stale, or that were never updated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.distance import distance
from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.check.state import NormState
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """By the state: initial statistics under trained affine numbers. By data: further off than one mini-batch."""
    subject = evidence.subject
    samples = (
        evidence.trained_on if subject.model is not None and subject.batches and not averaged(subject.model) else {}
    )
    for norm in evidence.norms:
        assert norm.mean is not None
        assert norm.variance is not None
        if norm.untouched and (_trained(norm) or (norm.tracked == 0 and _others_moved(evidence))):
            yield RULE.found(
                norm.name,
                "running_mean is 0 and running_var is 1 in every channel, as made, while the network was trained:"
                " the statistics were never updated",
                num_batches_tracked=norm.tracked,
            )
            continue
        if norm.name not in samples or bool(norm.broken.any()):
            continue
        found = distance(samples[norm.name], norm.mean, norm.variance, evidence.batch, norm.eps)
        if found.beyond_a_batch:
            yield RULE.found(
                norm.name,
                f"running mean {found.mean:.2g} deviations and running deviation {_percent(found.scale)} off the"
                f" population on this data; one batch of {evidence.batch} errs by {found.batch_mean:.2g} and"
                f" {_percent(found.batch_scale)}",
                mean_off=found.mean,
                log_deviation_off=found.scale,
                batch_mean_error=found.batch_mean,
                batch_log_deviation_error=found.batch_scale,
                examples=samples[norm.name].examples,
            )


def averaged(model: object) -> bool:
    """Whether `model` is torch's AveragedModel, whose statistics another rule looks at."""
    return type(model).__name__ == "AveragedModel" and hasattr(model, "n_averaged")


def _trained(norm: NormState) -> bool:
    """Gamma and beta that differ between channels were trained; some start from a random gamma, none from a beta."""
    values = [value for value in (norm.weight, norm.bias) if value is not None]
    return bool(values) and all(bool((value != value[0]).any()) for value in values)


def _others_moved(evidence: Evidence) -> bool:
    return any(not norm.untouched for norm in evidence.norms)


def _percent(log: float) -> str:
    return f"{100 * (2.718281828459045**log - 1):.3g} %"


RULE = Rule(
    "BN001",
    "running statistics are stale or were never updated",
    (),
    "Eval mode normalizes by the running average. Where that is further from the population at the present weights"
    " than the statistics of one mini-batch would be, the network is evaluated on inputs that it was not trained on.",
    "Re-estimate them: normscope.recalibrate(model, train_loader). In training: run train mode forwards after the last"
    " weight change, let the learning rate fall to 0, or raise momentum.",
    look,
    "The distance, root mean square over channels, exceeds what one mini-batch of the loader's size errs by; a healthy"
    " average errs by sqrt(m / (2 - m)) of that.",
    repair="recalibrate",
    sources=("wu2021", "ioffe2015"),
    quotes=(
        "model.eval() gives much worse results than model.train()",
        "validation accuracy is at chance while training accuracy is high",
    ),
)
