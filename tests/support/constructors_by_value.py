"""Constructors that initialise by names, dicts and arguments, and some that do not."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ByAName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.init_weights("zeros_")

    def init_weights(self, how: str) -> None:
        getattr(nn.init, how)(self.layer.weight)


class ByALocalName(nn.Module):
    def __init__(self, how: str = "zeros_") -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        initialiser = getattr(nn.init, how)
        initialiser(self.layer.weight)


class ByPrivate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        nn.init._no_grad_fill_(self.layer.weight, 1.0)


class ByNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(3, 3)
        held = layer.weight.detach().numpy()
        held[:] = 0
        self.layer = layer


class LoadsADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        state = {"weight": torch.ones(1, 3), "bias": torch.zeros(1)}
        self.layer.load_state_dict(state)


class SetsByName(nn.Module):
    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        setattr(self.layer, "bias", nn.Parameter(torch.tensor([value] * 3)))  # noqa: B010


class OtherDefault(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.reset_parameters(0.0)

    def reset_parameters(self, std: float = 1.0) -> None:
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)


class OtherKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))
        self.init_weights(std=0.5)

    def init_weights(self, mean: float = 0.0, std: float = 1.0) -> None:
        nn.init.normal_(self.weight, mean, std)


class _Given(nn.Linear):
    def reset_parameters(self, std: Any = 1.0, how: str = "normal_") -> None:
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)


class SameDefault(_Given):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.reset_parameters(1, how="normal_")


class GivesWhatItIsGiven(_Given):
    def __init__(self, std: float = 1.0, *more: Any) -> None:
        super().__init__(3, 3)
        self.reset_parameters(std, "normal_")


class SpreadsWhatItIsGiven(_Given):
    def __init__(self, *more: Any) -> None:
        super().__init__(3, 3)
        self.reset_parameters(*more)


class RunsBoth(OtherDefault):
    def __init__(self) -> None:
        super().__init__()
        self.reset_parameters()


class NamesOthers(nn.Module):
    def __init__(self, pretrained: str = "", how: str = "ones_") -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.how = getattr(nn.init, how)
        layers = {
            "layer": self.layer,
        }
        layers["layer"].weight.sum()
        self.activation = getattr(nn, "ReLU")()  # noqa: B009
        self.register_buffer("table", torch.zeros(3))
        setattr(self, "scale", nn.Parameter(torch.empty(3)))  # noqa: B010
        held = self.table.numpy()
        held[0] = 1
        if pretrained:
            self.load_state_dict(torch.load(pretrained))

    def reset_parameters(self) -> None:
        self.how(self.scale)
