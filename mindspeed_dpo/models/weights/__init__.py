"""Weights in and out: Hugging Face folders, Megatron rank files and training checkpoints, tensor by tensor."""

from __future__ import annotations

from mindspeed_dpo.models.weights.base import WeightSource
from mindspeed_dpo.models.weights.errors import WeightsError
from mindspeed_dpo.models.weights.placement import Layout, Placement
from mindspeed_dpo.models.weights.source import open_adapter, open_weights

__all__ = ["Layout", "Placement", "WeightSource", "WeightsError", "open_adapter", "open_weights"]
