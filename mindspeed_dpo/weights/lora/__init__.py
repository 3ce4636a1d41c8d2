"""Adapters in and out: PEFT folders, training checkpoints that hold adapters only, and weights merged with either."""

from __future__ import annotations

from mindspeed_dpo.weights.lora.merged import MergedSource
from mindspeed_dpo.weights.lora.peft import write_peft
from mindspeed_dpo.weights.lora.source import (
    AdapterSource,
    PeftAdapter,
    SavedAdapter,
    base_mark,
    check_adapter,
    described,
    settings_from,
)

__all__ = [
    "AdapterSource", "MergedSource", "PeftAdapter", "SavedAdapter", "base_mark", "check_adapter", "described",
    "settings_from", "write_peft",
]  # fmt: skip
