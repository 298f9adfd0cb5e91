"""A batch-norm network for a table: scikit-learn's diabetes data, ten measurements to one of progression.

normscope why --model examples/tabular_regression.py:make_model --data examples/tabular_regression.py:make_data
"""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

BATCH = 32


class Progression(nn.Module):
    """Ten features -> one number; two hidden layers, batch norm in each."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(*layer(10, 32), *layer(32, 32))
        self.head = nn.Linear(32, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features [batch, 10] to progression [batch], in deviations from the mean."""
        return self.head(self.hidden(features)).squeeze(1)


def layer(features_in: int, features_out: int) -> list[nn.Module]:
    """A linear layer, batch norm and ReLU."""
    return [nn.Linear(features_in, features_out), nn.BatchNorm1d(features_out), nn.ReLU()]


def make_model() -> nn.Module:
    """A fresh network."""
    return Progression()


def make_data() -> list[dict[str, Tensor]]:
    """Batches as dicts: what is not the target goes to the network by name. A quarter is held out by normscope."""
    bunch = load_diabetes()
    features = torch.from_numpy(bunch.data).float() * len(bunch.data) ** 0.5
    target = torch.from_numpy(bunch.target).float()
    target = (target - target.mean()) / target.std()
    pairs = zip(features.split(BATCH), target.split(BATCH), strict=True)
    return [{"features": x, "target": y} for x, y in pairs]
