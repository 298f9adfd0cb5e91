import warnings

import torch


def test_exported_graphs_are_looked_into(kit):
    model = kit.healthy().eval()
    x = kit.data(4)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graphs = [
            torch.fx.symbolic_trace(model),
            torch.jit.trace(model, x),
            torch.export.export(model, (x,)).module(check_guards=False),
        ]
    for graph in graphs:
        report = kit.check(graph, select=["BN019"])
        assert dict(report.findings[0].numbers)["layers"] == 2
    assert kit.found("BN019", model) == []
