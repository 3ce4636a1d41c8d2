"""Loads named tensors into a newly built model and reports every missing, unexpected or misshapen one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from mindspeed_dpo.models.named_tensors import named_tensors


def load_into(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    origin: str,
    loosely: bool = False,
    initialised: Collection[str] = (),
) -> list[str]:
    """Copy named tensors into a model's parameters and stored buffers.

    Args:
        model: The unwrapped pipeline stage.
        tensors: Local names and this rank's shards of weights in the shape of `named_tensors`, any float dtype.
        origin: Source of the tensors, for messages.
        loosely: Allow missing and unexpected names.
        initialised: Names that need not be loaded.

    Returns:
        The names allowed by `loosely`, as messages.

    Raises:
        ValueError: A shape differs, a tensor comes twice, or a name is missing or unexpected and `loosely` is off.
    """
    parameters, loaded = named_tensors(model), set[str]()
    problems, never_tolerated = [], []
    for name, tensor in tensors:
        parameter = parameters.get(name)
        if parameter is None:
            problems.append(f"{name} is in the weights but not in the model")
        elif name in loaded:
            never_tolerated.append(f"{name} is twice in the weights")
        elif parameter.shape != tensor.shape:
            never_tolerated.append(
                f"{name} is {list(tensor.shape)} in the weights and {list(parameter.shape)} in the model"
            )
        else:
            with torch.no_grad():
                parameter.copy_(tensor)
        loaded.add(name)
    problems += [
        f"{name} is in the model but not in the weights"
        for name in parameters
        if name not in loaded and name not in initialised
    ]
    if never_tolerated or (problems and not loosely):
        raise ValueError(f"{origin} does not match the model: " + "; ".join(never_tolerated + problems))
    return problems
