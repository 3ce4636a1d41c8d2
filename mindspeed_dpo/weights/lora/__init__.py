"""LoRA adapters as files: PEFT folders, training checkpoints of adapters, and base weights with either merged in.

Computing with adapters is left to `models.lora`, saving them during training to `engine`.
"""

from __future__ import annotations

from mindspeed_dpo.weights.lora.adapter_source import (
    AdapterSource,
    CheckpointAdapter,
    PeftAdapter,
    adapter_description,
    adapter_settings,
    check_adapter,
    quick_fingerprint,
)
from mindspeed_dpo.weights.lora.merged_source import MergedSource
from mindspeed_dpo.weights.lora.peft import write_peft

__all__ = [
    "AdapterSource", "CheckpointAdapter", "MergedSource", "PeftAdapter", "adapter_description", "adapter_settings",
    "check_adapter", "quick_fingerprint", "write_peft",
]  # fmt: skip
