"""A convolutional classifier with batch norm, on scikit-learn's digits as images.

normscope why --model examples/conv_images.py:make_model --data examples/conv_images.py:make_data
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 64


def make_model() -> nn.Module:
    """1x8x8 images -> 10 classes; three convolutions, batch norm behind each."""
    return nn.Sequential(
        *block(1, 8),
        *block(8, 16, stride=2),
        *block(16, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def block(channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    """A convolution, batch norm and ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8], ink is 1, in an order that is always the same; labels [1797]."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    return images[order], torch.from_numpy(bunch.target).long()[order]


def make_data() -> tuple[DataLoader, DataLoader]:
    """A training loader and a held-out one."""
    images, labels = digits()
    train = TensorDataset(images[:1200], labels[:1200])
    held_out = TensorDataset(images[1200:], labels[1200:])
    return DataLoader(train, BATCH, shuffle=True), DataLoader(held_out, BATCH)


def make_shifted() -> DataLoader:
    """The held-out digits as a poor camera sees them: pale ink on a grey ground, other greys in each image."""
    images, labels = digits()
    grey, ink = torch.rand(2, len(images) - 1200, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    pale = 0.6 * grey + (0.4 + 0.3 * ink) * images[1200:]
    return DataLoader(TensorDataset(pale, labels[1200:]), BATCH)
