"""In which order a network runs its modules, and which parameters therefore lie below a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import before_forward, replayable
from normscope.model.find import NormLayer, canonical_name, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normscope.probes.replay import Run

Site = tuple[str, nn.Module]


@dataclass(frozen=True)
class Stage:
    """A layer in the sense of Santurkar et al.: one module with weights and what normalizes it.

    Attributes:
        name: The name of the module with weights (linear, convolution, ...).
        module: That module.
        weights: Its own trainable parameters, W_i.
        parameters: `weights` and those of the modules that follow before the next stage (a norm layer's affine).
    """

    name: str
    module: nn.Module
    weights: tuple[nn.Parameter, ...]
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Order:
    """Which module first ran when, in one forward pass.

    Attributes:
        sites: (name, module) of every module that ran, in order of first use.
        owned: The trainable parameters that each of `sites` brings in, each parameter listed once.
    """

    sites: tuple[Site, ...]
    owned: tuple[tuple[nn.Parameter, ...], ...]

    def below(self, module: nn.Module) -> list[nn.Parameter]:
        """The parameters of every module that ran before `module`; none if it did not run."""
        found: list[nn.Parameter] = []
        for (_, site), owned in zip(self.sites, self.owned, strict=True):
            if site is module:
                return found
            found += owned
        return []

    def stages(self) -> tuple[Stage, ...]:
        """The network as stages, bottom first; parameters before the first weights belong to the first stage."""
        opened: list[tuple[Site, tuple[nn.Parameter, ...], list[nn.Parameter]]] = []
        early: list[nn.Parameter] = []
        for site, owned in zip(self.sites, self.owned, strict=True):
            if owned and _has_weights(site[1], owned):
                opened.append((site, owned, [*early, *owned]))
                early = []
            else:
                (opened[-1][2] if opened else early).extend(owned)
        return tuple(Stage(site[0], site[1], owned, tuple(group)) for site, owned, group in opened)


def _has_weights(module: nn.Module, owned: Sequence[Tensor]) -> bool:
    if kind_of(module) is not None or isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._NormBase):
        return False
    return any(parameter.dim() >= 2 for parameter in owned)


def order_of(model: nn.Module, run: Run) -> Order:
    """The order in which `run` uses the modules of `model`, and the parameters that each brings in.

    A parameter whose module is bypassed (used by its parent as a function) counts with the nearest ancestor that ran.
    Those of ScriptModules, whose place cannot be seen, are left out.

    Args:
        model: The network that `run` runs.
        run: Runs one forward pass.
    """
    named = [(canonical_name(name), module) for name, module in model.named_modules()]
    ran: dict[int, Site] = {}

    def enter(layer: NormLayer, _module: nn.Module, _x: Tensor) -> None:
        ran.setdefault(id(layer.module), (layer.name, layer.module))

    sites = [
        NormLayer(name, module, "site") for name, module in named if not isinstance(module, torch.jit.ScriptModule)
    ]
    with before_forward(sites, enter), replayable(model), torch.no_grad():
        run()
    owners = _owners(model, ran)
    return Order(tuple(ran.values()), tuple(tuple(owners.get(key, ())) for key in ran))


def _owners(model: nn.Module, ran: dict[int, Site]) -> dict[int, list[nn.Parameter]]:
    owners: dict[int, list[nn.Parameter]] = {}
    first: dict[int, tuple[int, nn.Parameter]] = {}
    position = {key: index for index, key in enumerate(ran)}

    def visit(module: nn.Module, owner: int) -> None:
        owner = id(module) if id(module) in ran else owner
        for parameter in module._parameters.values():
            if parameter is not None and parameter.requires_grad:
                held = first.get(id(parameter))
                if held is None or position.get(owner, 0) < position.get(held[0], 0):
                    first[id(parameter)] = (owner, parameter)
        for child in module.children():
            if not isinstance(child, torch.jit.ScriptModule):
                visit(child, owner)

    visit(model, next(iter(ran), id(model)))
    for owner, parameter in first.values():
        owners.setdefault(owner, []).append(parameter)
    return owners


def modules_named(sites: Sequence[Site]) -> list[NormLayer]:
    """`sites` in the form that normscope.model.attach hooks into."""
    return [NormLayer(name, module, "site") for name, module in sites]
