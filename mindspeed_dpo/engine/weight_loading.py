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
        ValueError: A shape differs, or a name is missing or unexpected and `loosely` is off.
    """
    parameters = named_tensors(model)
    problems, shape_mismatches = [], []
    for name, tensor in tensors:
        parameter = parameters.pop(name, None)
        if parameter is None:
            problems.append(f"{name} is in the weights but not in the model")
        elif parameter.shape != tensor.shape:
            shape_mismatches.append(
                f"{name} is {list(tensor.shape)} in the weights and {list(parameter.shape)} in the model"
            )
        else:
            with torch.no_grad():
                parameter.copy_(tensor)
    problems += [f"{name} is in the model but not in the weights" for name in parameters if name not in initialised]
    if shape_mismatches or (problems and not loosely):
        raise ValueError(f"{origin} does not match the model: " + "; ".join(shape_mismatches + problems))
    return problems
