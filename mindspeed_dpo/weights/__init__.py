"""Weights on disk and between processes: sources, writers, conversion, adapters and resharding.

Formats are Hugging Face folders, Megatron rank files and `torch_dist` training checkpoints; every tensor is handled on
its own, by the rules of its family. Building models is left to `models`, writing training checkpoints to `engine`.
"""

from __future__ import annotations

from mindspeed_dpo.weights.errors import HfConfigError, WeightsError
from mindspeed_dpo.weights.format_detection import open_adapter, open_weights
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from mindspeed_dpo.weights.weight_source import WeightSource

__all__ = [
    "HfConfigError", "ParallelLayout", "Placement", "WeightSource", "WeightsError", "open_adapter", "open_weights",
]  # fmt: skip
