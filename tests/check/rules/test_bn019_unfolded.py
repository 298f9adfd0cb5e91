import warnings

import torch
from torch import nn


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


def test_a_convolution_that_others_read_cannot_take_a_layer_in(kit):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

        def forward(self, x):
            x = self.linear(x)
            return torch.cat([x, self.norm(x)], 1)

    model, x = Branching().eval(), torch.randn(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for graph in (torch.fx.symbolic_trace(model), torch.jit.trace(model, x)):
            assert kit.check(graph, select=["BN019"]).findings == ()
