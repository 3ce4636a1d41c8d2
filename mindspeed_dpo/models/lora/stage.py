"""The adapters of a pipeline stage: put on, switched off for a while, loaded, merged into a copy of the weights.

They are modules below megatron-core's linear modules and add to their output by a hook, so that those modules and the
names of their parameters stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.chunks import ModelPart
from mindspeed_dpo.models.lora.layer import Adapters, Switch
from mindspeed_dpo.weights.layouts import Cut
from mindspeed_dpo.weights.lora.source import AdapterSource
from mindspeed_dpo.weights.lora.targets import targets
from mindspeed_dpo.weights.placement import Placement


def add_adapters(
    stage: ModelPart, model: ModelConfig, placement: Placement, settings: AdapterConfig, seed: int
) -> None:
    """Freeze a stage and give its matrices adapters, which are all that learns from then on.

    Args:
        stage: With its weights loaded.
        model: The architecture.
        placement: The stage's part of it.
        settings: Which matrices, and what adapters.
        seed: Of the run.
    """
    stage.requires_grad_(False)
    cut, switch = Cut(placement.tp_rank, placement.tp_size), Switch()
    for local, layer in enumerate(placement.layers):
        assert layer is not None
        for target in targets(model, settings):
            linear: Any = stage.get_submodule(target.module_path(local))
            adapters = Adapters(target, layer, model, cut, settings, switch, seed)
            adapters.place(linear.weight, stage.config.sequence_parallel)
            linear.adapters = adapters
            linear.register_forward_hook(_add_change)
    if stage.pre_process and stage.config.recompute_granularity == "full":
        # A recomputed layer passes gradients on only if its input asks for one, which frozen embeddings do not.
        stage.embedding.register_forward_hook(_ask_for_gradient)


def adapters_of(stage: nn.Module) -> dict[str, Adapters]:
    """The adapters of a stage by the name of their module; empty without."""
    return {name: module for name, module in stage.named_modules() if isinstance(module, Adapters)}


@contextmanager
def adapters_off(stage: nn.Module) -> Iterator[None]:
    """The stage as it is without its adapters, for a while."""
    switches = [adapters.switch for adapters in adapters_of(stage).values()]
    before = [switch.on for switch in switches]
    for switch in switches:
        switch.on = False
    try:
        yield
    finally:
        for switch, on in zip(switches, before, strict=True):
            switch.on = on


def load_adapters(stage: nn.Module, source: AdapterSource) -> None:
    """Take a stage's share of stored adapters."""
    for adapters in adapters_of(stage).values():
        adapters.load(source)


def base_parameters(stage: nn.Module) -> dict[str, Tensor]:
    """The parameters beneath the adapters; all of them where there are none."""
    inside = {id(parameter) for adapters in adapters_of(stage).values() for parameter in adapters.parameters()}
    return {name: parameter for name, parameter in stage.named_parameters() if id(parameter) not in inside}


def merged_parameters(stage: nn.Module, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The parameters as they are with the adapters merged in; where there are none, the parameters themselves.

    Args:
        stage: The model.
        into: An earlier result, whose copies are filled again.
    """
    tensors: dict[str, Tensor] = base_parameters(stage)
    for name, adapters in adapters_of(stage).items():
        key = name.removesuffix("adapters") + "weight"
        weight = tensors[key].detach()
        copy = torch.empty_like(weight) if into is None else into[key]
        tensors[key] = copy.copy_(weight.float() + adapters.change())
    return tensors


def _add_change(linear: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]) -> tuple[Tensor, Any] | None:
    adapters: Adapters = linear.adapters  # type: ignore[assignment]
    return (output[0] + adapters(inputs[0]), output[1]) if adapters.switch.on else None


def _ask_for_gradient(embedding: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    return output.requires_grad_() if torch.is_grad_enabled() else None
