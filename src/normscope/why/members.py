"""The networks that are trained side by side in one run: any one network, or a stack of fully connected ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from normscope.model.attach import mode, preserved_buffers
from normscope.model.batch import Batch, Examples
from normscope.model.find import find
from normscope.model.spec import Score
from normscope.probes.population import population_mode
from normscope.why.arms import FULL
from normscope.why.data import Data

# Examples, and input values, that give population statistics in one forward pass: at most.
POOL, POOL_VALUES = 2048, 1 << 24


class Members(Protocol):
    """K networks that one trainer trains, each on its own data with its own learning rate."""

    datas: list[Data]

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer updates."""

    def losses(self, index: Tensor) -> Tensor:
        """Training losses [K], in train mode, of the examples at `index` [K, batch] of each training set."""

    def gradients(self, index: Tensor, factors: Tensor) -> None:
        """Set every parameter's gradient: of the losses at `index` [K, batch], times each network's factor [K]."""

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the networks at `places` only; parameters keep their identity, not their shape."""

    def outputs(self, part: str, index: Tensor | None = None) -> list[Tensor]:
        """Evaluation-mode outputs of each network for its 'train' or 'test' examples (those at `index`)."""

    def population(self) -> AbstractContextManager[None]:
        """For a while, evaluate with exact population statistics: of the training set, biased, dropout off."""

    def models(self) -> list[nn.Module]:
        """Each network as a module of its own, with its current weights and statistics."""


class Single:
    """One network of any kind.

    Args:
        model: The network.
        data: Its data.
        loss: (output, target) -> scalar.
        full: Whether training statistics come from up to `FULL` training examples instead of the mini-batch.
        device: Where it runs.
        amp: Whether forward passes run under autocast to bfloat16.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        loss: Score,
        *,
        full: bool = False,
        device: torch.device | str = "cpu",
        amp: bool = False,
    ) -> None:
        self.model, self.datas, self.loss = model.to(device), [data], loss
        self._full, self._device, self._amp = full, torch.device(device), amp

    def parameters(self) -> list[nn.Parameter]:
        """The network's parameters that want gradients."""
        return [value for value in self.model.parameters() if value.requires_grad]

    def _forward(self, batch: Batch) -> Tensor:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._amp):
            output = batch.to(self._device)(self.model)
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output

    def losses(self, index: Tensor) -> Tensor:
        """The loss of the batch at `index` [1, batch], shape [1]."""
        self.model.train()
        train = self.datas[0].train
        rows = index[0]
        if self._full:
            others = torch.ones(len(train), dtype=torch.bool)
            others[rows] = False
            rows = torch.cat([rows, others.nonzero().flatten()[: max(0, FULL - len(rows))]])
        output = self._forward(train.take(rows))[: index.shape[1]]
        return self.loss(output, train.target[index[0]].to(output.device)).reshape(1)

    def gradients(self, index: Tensor, factors: Tensor) -> None:
        """Set the gradients of the loss at `index` [1, batch] times factors[0]."""
        for value in self.parameters():
            value.grad = None
        self.losses(index).sum().backward()
        for value in self.parameters():
            if value.grad is not None:
                value.grad.mul_(float(factors[0]))

    def probed(self, index: Tensor) -> Tensor:
        """Output for the training examples at `index`, dropout off, each batch norm by these examples' own statistics.

        What evaluation mode would show if running averages had no lag; the network stays as it is.
        """
        batch = self.datas[0].train.take(index)
        with preserved_buffers(self.model), mode(self.model, training=False), torch.no_grad():
            for layer in find(self.model).layers:
                layer.module.training = layer.kind != "frozen"
            return self._forward(batch).cpu()

    def keep(self, places: Sequence[int]) -> None:
        """Nothing to choose from: the one network goes on."""
        assert list(places) == [0]

    def outputs(self, part: str, index: Tensor | None = None) -> list[Tensor]:
        """Evaluation-mode outputs on the CPU, in chunks of 512 examples."""
        examples: Examples = getattr(self.datas[0], part)
        if index is not None:
            examples = examples.subset(index)
        with mode(self.model, training=False), torch.no_grad():
            return [torch.cat([self._forward(batch).cpu() for batch in examples.chunks(512)])]

    @contextmanager
    def population(self) -> Iterator[None]:
        """For a while, evaluate with the statistics of up to `POOL` training examples, biased, dropout off."""
        if not find(self.model).layers:
            yield
            return
        train = self.datas[0].train
        values = sum(x[:1].numel() for _, x in train.whole.leaves)
        pool = train.take(torch.arange(min(len(train), POOL, max(64, POOL_VALUES // values))))
        with population_mode(self.model, lambda: self._forward(pool)):
            yield

    def models(self) -> list[nn.Module]:
        """The network itself."""
        return [self.model]
