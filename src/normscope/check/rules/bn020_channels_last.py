"""channels_last data whose mean is so large that torch's CPU kernel loses its digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding


def look(evidence: Evidence) -> Iterator[Finding]:
    """Torch's own statistics of a layer's input against float64, in units of what the batch's statistics err by."""
    for name, (error, sampling, ratio) in evidence.kernel_errors.items():
        if error > sampling:
            yield RULE.found(
                name,
                f"its channels_last input has a mean of {ratio:.3g} deviations: torch's deviation is {error:.2g} off"
                f" float64, sampling alone errs by {sampling:.2g}",
                log_deviation_error=error,
                sampling_error=sampling,
                mean_in_deviations=ratio,
            )


RULE = Rule(
    "BN020",
    "channels_last data with a large mean",
    ("model", "data"),
    "On the CPU torch's channels_last kernel sums squares in float32: with a mean of 10^4 deviations and"
    " more, the variance"
    " that it finds is rounding error.",
    "Centre the data, hand it over contiguous, or use normscope.nn.BatchNorm2d, which is exact in both layouts.",
    look,
    "Rounding moves log(deviation) by more than the statistical error of the batch, 1 / sqrt(2 values).",
)
