"""torch's own samples of batch norm (inputs, constructor arguments, train and eval), run against these layers."""

import warnings

import pytest
import torch

with warnings.catch_warnings():
    # torch's own tests like to have hypothesis; these do not.
    warnings.simplefilter("ignore", ImportWarning)
    from torch.testing._internal.common_modules import module_db

from normscope import nn

LAYERS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__.startswith("BatchNorm")}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_outputs_gradients_and_buffers_are_torchs(name, dtype, training):
    info = LAYERS[name]
    samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    assert len(samples) >= 4
    for sample in samples:
        results = []
        for module in (info.module_cls, getattr(nn, name)):
            torch.manual_seed(1)
            layer = module(*sample.constructor_input.args, **sample.constructor_input.kwargs).to(dtype).train(training)
            x = sample.forward_input.args[0].detach().clone().requires_grad_()
            y = layer(x, *sample.forward_input.args[1:], **sample.forward_input.kwargs)
            dy = torch.randn(y.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
            grads = torch.autograd.grad(y, [x, *layer.parameters()], dy)
            results.append([y, *grads, *layer.state_dict().values()])
        assert len(results[0]) == len(results[1])
        for want, got in zip(*results, strict=True):
            torch.testing.assert_close(got, want)
