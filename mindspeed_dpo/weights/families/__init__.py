"""One table of rules per family. A new family is a file here, a line below and a row in `models/hf_config.py`."""

from __future__ import annotations

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.families.llama import LLAMA
from mindspeed_dpo.weights.families.qwen2 import QWEN2
from mindspeed_dpo.weights.families.qwen3 import QWEN3
from mindspeed_dpo.weights.families.score_head import reward_rules
from mindspeed_dpo.weights.hf_config import family_of
from mindspeed_dpo.weights.rules import RuleTable

FAMILIES: dict[str, RuleTable] = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3}


def rules_for(model: ModelConfig, *, reward: bool = False, final_norm: bool = True) -> RuleTable:
    """The table of the family a model belongs to.

    Args:
        model: The architecture.
        reward: Whether it is a reward model instead of a language model.
        final_norm: See `reward_rules`.

    Raises:
        HfConfigError: No family has this combination of biases and norms.
    """
    family = FAMILIES[family_of(model)]
    return reward_rules(family, final_norm=final_norm) if reward else family
