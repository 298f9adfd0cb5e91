"""What each probe of a training loop says, for a reader of its page."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What a probe's numbers say, and the works that they come from, as keys of the bibliography."""

    says: str
    works: tuple[str, ...]


PROBES: dict[str, Entry] = {
    "moments": Entry(
        "What each batch-norm layer is fed: how far the channels' means lie from zero, how much a channel varies, and"
        " how many values a channel's statistics come from.",
        ("ioffe2015",),
    ),
    "range": Entry(
        "What leaves each layer before its activation: the deviation of a unit, and how unequal units and layers are"
        " (standard deviation of the log deviation; 0 means one range for all).",
        ("ioffe2015",),
    ),
    "drift": Entry(
        "How far the moments of each layer's input have moved since the last measured step, in deviations. Theory is"
        " what two batches of one and the same network differ by: what is not above it is no drift.",
        ("ioffe2015", "santurkar2018"),
    ),
    "noise": Entry(
        "How noisy this batch size makes the statistics, each layer alone. The batch's normalized value is a times the"
        " noise-free one plus b; the noise is given as the dropout rate of equal power too. Values of one image are"
        " alike, so that a batch is worth fewer values than it has.",
        ("shekhovtsov2018", "srivastava2014"),
    ),
    "gap": Entry(
        "The loss of one batch in training and in evaluation mode. The part that is batch norm's comes from running"
        " statistics that are not the batch's.",
        ("wu2021",),
    ),
    "ablation": Entry(
        "The loss without single units of the first batch-norm layer: how much the network relies on any one of them.",
        ("morcos2018",),
    ),
    "perturbation": Entry(
        "3 % noise on the weights of the layers below: how far a layer's input, and the loss, move by that alone.",
        ("santurkar2018",),
    ),
    "coupling": Entry(
        "The next real step, taken by the layers below alone: how far it moves a layer's input and the loss.",
        ("ioffe2015", "santurkar2018"),
    ),
    "gradient shift": Entry(
        "How a layer's gradient changes when the layers below have taken their step: relative length of the change, and"
        " cosine of the angle. This is internal covariate shift as Santurkar et al. define it.",
        ("santurkar2018",),
    ),
    "landscape": Entry(
        "Along the gradient, over several step sizes: the range of the loss, the largest change of the gradient, and"
        " that change over the distance (effective smoothness).",
        ("santurkar2018",),
    ),
}
