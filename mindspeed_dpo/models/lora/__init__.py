"""Low-rank adapters on a built model: what one computes (`layer`), and what a whole stage does with them (`stage`)."""

from __future__ import annotations

from mindspeed_dpo.models.lora.layer import Adapters
from mindspeed_dpo.models.lora.stage import (
    adapters_of,
    adapters_off,
    add_adapters,
    load_adapters,
    merged_parameters,
)

__all__ = ["Adapters", "adapters_of", "adapters_off", "add_adapters", "load_adapters", "merged_parameters"]
