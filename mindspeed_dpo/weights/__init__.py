"""Weights in and out: Hugging Face folders, Megatron rank files and training checkpoints, tensor by tensor."""

from __future__ import annotations

from mindspeed_dpo.weights.base import WeightSource
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.placement import Layout, Placement
from mindspeed_dpo.weights.source import open_adapter, open_weights

__all__ = ["Layout", "Placement", "WeightSource", "WeightsError", "open_adapter", "open_weights"]
