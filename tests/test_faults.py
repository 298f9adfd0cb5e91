"""The fault benchmark in small: three faults at their worst, a healthy control, public architectures."""

import sys
from pathlib import Path

import pytest
import torch

from normscope.check.run import check
from normscope.surgery.recalibrate import recalibrate

FAULTS = Path(__file__).parents[1] / "benchmarks" / "faults"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FAULTS))
    try:
        import run

        yield run
    finally:
        sys.path.remove(str(FAULTS))
        for name in ("run", "table", "catalog", "networks", "training", "public"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    [
        "buffers not updated by a functional forward",
        "momentum by Keras' convention",
        "an extra forward in train mode",
    ],
)
def test_a_fault_is_found_and_nothing_else(bench, name):
    fault = next(one for one in bench.catalog.FAULTS if one.name == name)
    row = bench.one(fault, "mlp", 2)
    assert fault.code in row["codes"]
    assert not bench.table.extras([row])
    assert not any(kept and before is not None and after > before for _, before, after, kept in row["fixed"])
    assert "1.00 |" in bench.table.by_rule([row])


def test_the_healthy_control_is_clean(bench):
    model = bench.training.healthy("mlp")
    assert bench.training.accuracy(model) > 0.95
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = bench.training.digits()[:2]
    report = check(
        model,
        bench.training.loader(),
        held_out=bench.training.held_out(),
        serving=bench.training.loader(x[640:], y[640:]),
        optimizer=optimizer,
        step=lambda: bench.training.usual(model.train(), x[:32], y[:32], optimizer),
        max_forwards=64,
    )
    assert report.findings == ()


@pytest.mark.usefixtures("bench")
def test_public_architectures_with_statistics_of_their_own_are_clean():
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    import public

    batches = public.batches(*(part[:128] for part in public.images()), size=16)
    # Levit's last stages have one position, and random weights give it heavy tails: 16 values are too few there.
    for name, expected in (("resnet bottleneck", {"BN003"}), ("levit", {"BN002", "BN003"})):
        model = recalibrate(public.network(name), batches, tolerance=1e-9).model
        report = check(model, batches, max_forwards=8)
        assert public.codes(report) <= expected, report.findings
        assert report.forwards == report.planned
    assert public.codes(check(public.network("mobilenet_v2"))) == {"BN012"}


def test_every_fault_has_a_report_of_its_own(bench):
    faults = bench.catalog.FAULTS
    assert len(faults) >= 30
    assert len({fault.source for fault in faults}) == len(faults)
    assert len(list(bench.cases("both"))) == len(list(bench.cases("aside"))) + len(list(bench.cases("tuned")))
