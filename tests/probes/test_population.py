import pytest
import torch
from torch import nn

import normscope.nn
from normscope.probes.population import population_mode


@pytest.mark.usefixtures("unchanged")
def test_the_pool_is_normalized_exactly_at_every_depth(task):
    with population_mode(task.model, task.run) as pools:
        assert not any(module.training for module in task.model.modules())
        y = task.x
        for index, module in enumerate(task.model):
            x, y = y, module(y)
            if index in (1, 5, 9):
                rows = x.double().movedim(1, 0).flatten(1)
                torch.testing.assert_close(pools[str(index)].moments().mean, rows.mean(1), rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(module.running_var.double(), rows.var(1, correction=0), rtol=1e-4, atol=1e-7)
                z = (y - module.bias.view(-1, *[1] * (y.dim() - 2))) / module.weight.view(-1, *[1] * (y.dim() - 2))
                assert float(z.mean(0).flatten(1).mean(1).abs().max() if y.dim() > 2 else z.mean(0).abs().max()) < 1e-5


def test_layers_without_running_statistics_and_ghost_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), normscope.nn.GhostBatchNorm1d(3, ghost_size=4))
    x = torch.randn(32, 3) * 3 + 1
    with population_mode(model, lambda: model(x)):
        assert float(model(x).mean(0).abs().max()) < 1e-6
        parts = torch.cat([model(x[:5]), model(x[5:])])
        torch.testing.assert_close(parts, model(x))
    assert model[0].running_mean is None
    assert torch.equal(model[1].running_mean, torch.zeros(3))


@pytest.mark.usefixtures("unchanged")
def test_an_exception_leaves_no_trace(task):
    def fail():
        task.run()
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"), population_mode(task.model, fail):
        pass
