"""Weights into a freshly built model: every parameter named, shaped and present, or a list of what is wrong."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def load_into(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], origin: str, loosely: bool = False) -> list[str]:
    """Copy named tensors into a model's parameters.

    Args:
        model: The unwrapped pipeline stage.
        tensors: Local names and this rank's shards, any float dtype.
        origin: Where they come from, for messages.
        loosely: Tolerate missing and unexpected names.

    Returns:
        The problems that were tolerated.

    Raises:
        ValueError: A shape differs, or a name is missing or unexpected and `loosely` is off.
    """
    parameters = dict(model.named_parameters())
    problems, wrong_shapes = [], []
    for name, tensor in tensors:
        parameter = parameters.pop(name, None)
        if parameter is None:
            problems.append(f"{name} is in the weights, but not in the model")
        elif parameter.shape != tensor.shape:
            wrong_shapes.append(
                f"{name} is {list(tensor.shape)} in the weights and {list(parameter.shape)} in the model"
            )
        else:
            with torch.no_grad():
                parameter.copy_(tensor)
    problems += [f"{name} is in the model, but not in the weights" for name in parameters]
    if wrong_shapes or (problems and not loosely):
        raise ValueError(f"{origin} does not fit the model: " + "; ".join(wrong_shapes + problems))
    return problems
