"""Checks that a Hugging Face folder gets every matrix of every expert once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.name_mapping import model_entries


def with_all_experts(tensors: Iterable[tuple[str, Tensor]], model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Pass tensors of any shape and dtype on, and check after the last one that all experts were among them once.

    Args:
        tensors: Hugging Face names and weights.
        model: The architecture that they belong to.

    Raises:
        WeightsError: A matrix of an expert was missing or came twice; the message names it.
    """
    written = Counter[str]()
    for name, tensor in tensors:
        written[name] += 1
        yield name, tensor
    for entry in model_entries(rules_for(model), model):
        for name in entry.hf_names if entry.expert is not None else ():
            if written[name] != 1:
                raise WeightsError(f"{name} was written {written[name]} times, instead of once")
