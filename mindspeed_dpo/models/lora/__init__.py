"""LoRA adapters in a built model: of one matrix in `layer`, of experts in `expert_layer`, of a stage in `adapters`.

Which matrices have adapters, and how adapters are stored, is left to `weights.lora`.
"""

from __future__ import annotations

from mindspeed_dpo.models.lora.adapters import (
    AdapterLayer,
    adapter_layers,
    adapters_disabled,
    add_adapters,
    load_adapters,
    merged_parameters,
)
from mindspeed_dpo.models.lora.expert_layer import ExpertLoraLayer
from mindspeed_dpo.models.lora.layer import LoraLayer

__all__ = [
    "AdapterLayer", "ExpertLoraLayer", "LoraLayer", "adapter_layers", "adapters_disabled", "add_adapters",
    "load_adapters", "merged_parameters",
]  # fmt: skip
