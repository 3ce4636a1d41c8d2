"""The loading of new weights, called in each of vLLM's workers; runs in the interpreter that vLLM is installed in.

vLLM's tensor-parallel workers are processes that cannot import this module: it is sent to them by value.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from cloudpickle import register_pickle_by_value
from torch import Tensor
from vllm.platforms import current_platform

Place = tuple[str, str, tuple[int, ...], int]
"""Name, dtype, shape and offset in bytes of a tensor in the shared memory."""
register_pickle_by_value(sys.modules[__name__])


def load_weights(worker: Any, path: str, places: Sequence[Place]) -> None:
    """Load all weights in one of vLLM's workers, whose model copies its part of each.

    Raises:
        RuntimeError: The model has a weight that none of them is for; vLLM itself only warns.
    """
    model = worker.model_runner.get_model()
    _forget_host_kernels(model)
    names: set[str] = {name for name, _ in model.named_parameters()}
    loaded: set[str] = set()
    load = model.load_weights

    def load_and_note(weights: Any) -> Any:
        found = load(weights)
        loaded.update(names if found is None else found)
        return found

    model.load_weights = load_and_note
    try:
        worker.model_runner.reload_weights(weights_iterator=_mapped_tensors(path, places))
    finally:
        del model.load_weights
    if missing := sorted(names - loaded):
        raise RuntimeError(f"{len(missing)} weights of vLLM's model were not among those sent, {missing[0]} is one")
    _pack_tied_weights(model)


def _forget_host_kernels(model: Any) -> None:
    """Let vLLM set up experts on the host again, with their new weights.

    vLLM 0.32 packs their weights only together with the first kernel, and later copies what is not packed.
    """
    if current_platform.is_cpu():
        for module in model.modules():
            method: Any = getattr(module, "quant_method", None)
            if hasattr(method, "moe_kernel"):
                method.moe_kernel = None


def _pack_tied_weights(model: Any) -> None:
    """Pack again what vLLM packs on the host from a weight that another layer loads.

    That is the output layer of a tied model, which vLLM 0.32 leaves with its first weights.
    """
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


def _mapped_tensors(path: str, places: Sequence[Place]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor, a view of the shared memory, of all weights."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    for name, dtype, shape, offset in places:
        count = math.prod(shape)
        yield name, torch.frombuffer(memory, dtype=getattr(torch, dtype), count=count, offset=offset).view(shape)
