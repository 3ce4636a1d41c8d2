"""The adapters of a pipeline stage: adding, disabling, loading, and merging into a copy of the weights.

They are submodules of megatron-core's linear modules and add to their output by a forward hook, so the modules and the
names of their parameters do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.lora.expert_layer import ExpertLoraLayer
from mindspeed_dpo.models.lora.layer import AdapterSwitch, LoraLayer
from mindspeed_dpo.models.named_tensors import expert_name, named_tensors
from mindspeed_dpo.models.reward import score_head
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.weights.layer_placement import Placement
from mindspeed_dpo.weights.lora.adapter_source import AdapterSource
from mindspeed_dpo.weights.lora.peft import HEAD
from mindspeed_dpo.weights.lora.targets import adapter_targets, expert_targets


def add_adapters(
    stage: PipelineStage, model: ModelConfig, placement: Placement, settings: AdapterConfig, seed: int
) -> None:
    """Freeze a stage and add adapters to its matrices; only the adapters are trainable afterwards.

    Args:
        stage: The stage with its weights loaded.
        model: The architecture.
        placement: The part of the model that the stage holds.
        settings: Target matrices, rank, alpha and dropout.
        seed: Seed of the run.
    """
    stage.requires_grad_(False)
    switch, experts = AdapterSwitch(), placement.experts(model.num_experts or 0)
    for local, layer in enumerate(placement.layers):
        assert layer is not None
        for target in adapter_targets(model, settings, layer):
            linear: Any = stage.get_submodule(target.mcore_module(local))
            adapters = LoraLayer(target, layer, model, placement.tp, settings, switch, seed)
            adapters.attach(linear.weight, stage.config.sequence_parallel)
            linear.adapters = adapters
            linear.register_forward_hook(_add_adapter_output)
        for of_experts in expert_targets(model, settings, layer):
            grouped: Any = stage.get_submodule(of_experts.mcore_module(local))
            grouped.adapters = ExpertLoraLayer(of_experts, layer, model, experts, switch, seed)
            grouped.adapters.attach(grouped.weight)
            grouped.register_forward_hook(_add_expert_output)
    if stage.pre_process and stage.config.recompute_granularity == "full":
        # A recomputed layer has gradients only if its input requires them, which a frozen embedding's output does not.
        stage.embedding.register_forward_hook(_require_gradient)


AdapterLayer = LoraLayer | ExpertLoraLayer


def adapter_layers(stage: nn.Module) -> dict[str, AdapterLayer]:
    """The adapters of a stage by module name; empty for a stage without adapters."""
    return {name: module for name, module in stage.named_modules() if isinstance(module, AdapterLayer)}


@contextmanager
def adapters_disabled(stage: nn.Module) -> Iterator[None]:
    """Disable the adapters of a stage within the context."""
    switches = [adapters.switch for adapters in adapter_layers(stage).values()]
    before = [switch.enabled for switch in switches]
    for switch in switches:
        switch.enabled = False
    try:
        yield
    finally:
        for switch, enabled in zip(switches, before, strict=True):
            switch.enabled = enabled


def load_adapters(stage: nn.Module, source: AdapterSource) -> None:
    """Load a stage's shards of stored adapters, and of the score head that may come with them."""
    for adapters in adapter_layers(stage).values():
        adapters.load(source)
    head = score_head(stage)
    if head is not None and source.has_head:
        head.load(source.tensors[HEAD])


def merged_parameters(stage: nn.Module, into: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of a stage by local name, of any shape and dtype, with adapters merged into copies of their matrices.

    Without adapters these are the parameters themselves.

    Args:
        stage: The model.
        into: An earlier result, whose copies are overwritten.
    """
    tensors: dict[str, Tensor] = _base_parameters(stage)
    for name, adapters in adapter_layers(stage).items():
        for key, delta in _changes(name, adapters):
            weight = tensors[key].detach()
            copy = torch.empty_like(weight) if into is None else into[key]
            tensors[key] = copy.copy_(weight.float() + delta)
    return tensors


def _changes(name: str, adapters: AdapterLayer) -> Iterator[tuple[str, Tensor]]:
    """The changes of weights by adapters, float32, with the names of the weights; those of experts one by one."""
    module, delta = name.removesuffix(".adapters"), adapters.delta_weight()
    if isinstance(adapters, ExpertLoraLayer):
        yield from ((expert_name(module, index), change) for index, change in enumerate(delta.unbind(0)))
    else:
        yield f"{module}.weight", delta


def _base_parameters(stage: nn.Module) -> dict[str, Tensor]:
    """The tensors of a stage that do not belong to adapters, those of experts one by one."""
    adapter_ids = {id(parameter) for layer in adapter_layers(stage).values() for parameter in layer.parameters()}
    return {name: tensor for name, tensor in named_tensors(stage).items() if id(tensor) not in adapter_ids}


def _add_adapter_output(
    linear: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]
) -> tuple[Tensor, Any] | None:
    adapters: LoraLayer = linear.adapters  # type: ignore[assignment]
    return (output[0] + adapters(inputs[0]), output[1]) if adapters.switch.enabled else None


def _add_expert_output(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    adapters: ExpertLoraLayer = linear.adapters  # type: ignore[assignment]
    return output + adapters(*inputs) if adapters.switch.enabled else None


def _require_gradient(embedding: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    return output.requires_grad_() if torch.is_grad_enabled() else None
