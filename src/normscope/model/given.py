"""What a person gave: where the parts of a task are. Needs no torch, so that a parent process can hold it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """Where the parts of a user's task are: 'pkg.module:name' or 'file.py:name'; None for the default.

    Attributes:
        model: A factory without arguments that returns a torch.nn.Module.
        data: A factory without arguments that returns a loader, or (training loader, held-out loader).
        shifted: A factory of unlabelled or labelled data from the place where the model is used.
        loss: A function (output, target) -> scalar tensor.
        metric: A function (output, target) -> number, larger is better.
        checkpoint: Weights to start from: .safetensors, or a file for torch.load(weights_only=True).
        device: 'cpu', 'cuda', 'cuda:1', 'mps'.
        amp: Whether forward passes run under autocast to bfloat16.
    """

    model: str
    data: str
    shifted: str | None = None
    loss: str | None = None
    metric: str | None = None
    checkpoint: str | None = None
    device: str = "cpu"
    amp: bool = False
