"""Memory that a rollout worker and its vLLM process share: all weights under Hugging Face's names, at fixed places.

It is anonymous (memfd_create), so nothing is left of it when the processes have ended, however they did.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.families.expert_tensors import EXPERT_BIAS
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import TensorEntry, model_entries
from mindspeed_dpo.weights.resharding.shards import Region, TensorSpec, full_shape
from mindspeed_dpo.weights.resharding.tensor_digests import tensor_digest

_ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class TensorPlace:
    """A tensor in shared memory: `TensorPlace("model.norm.weight", "bfloat16", (4096,), 0)` is at its beginning.

    Attributes:
        name: Hugging Face's name.
        dtype: Name of its dtype.
        shape: Its shape.
        offset: Position of its first byte.
    """

    name: str
    dtype: str
    shape: Shape
    offset: int

    @property
    def stop(self) -> int:
        """Position after its last byte."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return self.offset + math.prod(self.shape) * dtype.itemsize


class SharedWeights:
    """Receives the weights of the actor, tensor by tensor, and holds them for the vLLM process.

    It has the methods by which `weights.resharding.transfer` writes to a receiver. Megatron's tensors are complete one
    after the other; each is then converted to those of Hugging Face.

    Attributes:
        places: The tensors, in the model's order.
        descriptor: File descriptor of the memory.
        device: Device that buckets arrive on.
    """

    def __init__(self, model: ModelConfig, dtype: str, device: torch.device) -> None:
        """Allocate the memory; its pages are used only once they are written.

        Args:
            model: The architecture.
            dtype: Name of the dtype of the weights; the bias of routers is float32 in any case.
            device: Device that buckets arrive on.
        """
        self.model, self.device = model, device
        self._entries = {entry.global_name: entry for entry in model_entries(rules_for(model), model)}
        self._dtypes = {name: "float32" if name.endswith(EXPERT_BIAS) else dtype for name in self._entries}
        self.places = list(self._places())
        self.descriptor = os.memfd_create("weights")
        os.ftruncate(self.descriptor, self.places[-1].stop)
        self._memory = mmap.mmap(self.descriptor, 0)
        self._by_name: Mapping[str, TensorPlace] = {place.name: place for place in self.places}
        self._incomplete: dict[str, Tensor] = {}
        self._missing: set[str] = set()

    def specs(self) -> tuple[TensorSpec, ...]:
        """The unsharded Megatron tensors that are expected."""
        return tuple(
            TensorSpec(name, full_shape(entry.layout, self.model), self._dtypes[name])
            for name, entry in self._entries.items()
        )

    def begin(self) -> None:
        """Expect all tensors again."""
        self._incomplete.clear()
        self._missing = set(self._entries)

    def finish(self) -> None:
        """Check that every tensor has been received.

        Raises:
            WeightsError: One has not.
        """
        if self._missing:
            raise WeightsError(f"{len(self._missing)} weights were not received, {min(self._missing)} among them")

    def regions(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """The region that takes rows `start` to `stop` of a tensor, which is converted once its last row is written."""
        entry = self._entries[name]
        shape = full_shape(entry.layout, self.model)
        if start == 0:
            self._incomplete[name] = torch.empty(shape, dtype=getattr(torch, self._dtypes[name]))
        yield Region(self._incomplete[name][start:stop], start, 0)
        # The rows have been copied by now: transfers write a region before they ask for the next one.
        if stop == shape[0]:
            self._convert(name, entry)

    def digests(self) -> dict[str, int]:
        """The digest of every Megatron tensor that the memory holds, as of `weights.resharding.digests`."""
        found = {}
        for name, entry in self._entries.items():
            tensor = entry.layout.to_mcore(tuple(map(self.tensor, entry.hf_names)), self.model)
            found[name] = tensor_digest(tensor[: full_shape(entry.layout, self.model)[0]])
        return found

    def _convert(self, name: str, entry: TensorEntry) -> None:
        tensors = entry.layout.to_hf(self._incomplete.pop(name), self.model)
        for hf_name, tensor in zip(entry.hf_names, tensors, strict=True):
            self.tensor(hf_name).copy_(tensor)
        self._missing.discard(name)

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of a Hugging Face name, of any shape and dtype: a view of the memory."""
        place = self._by_name[name]
        dtype: torch.dtype = getattr(torch, place.dtype)
        flat = torch.frombuffer(self._memory, dtype=dtype, count=math.prod(place.shape), offset=place.offset)
        return flat.view(place.shape)

    def _places(self) -> Iterator[TensorPlace]:
        offset = 0
        for name, entry in self._entries.items():
            for hf_name, shape in zip(entry.hf_names, entry.layout.hf_shapes(self.model), strict=True):
                place = TensorPlace(hf_name, self._dtypes[name], shape, offset)
                yield place
                offset = -(-place.stop // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
