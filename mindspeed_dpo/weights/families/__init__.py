"""The supported model families, one file each; a new family is a file here and an item of `FAMILIES`.

A family declares its names in transformers, its traits and its tensors. Translating config.json is left to
`hf_config`, the layouts of tensors to `tensor_layouts`.
"""

from __future__ import annotations

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families.glm4_moe import GLM4_MOE
from mindspeed_dpo.weights.families.llama import LLAMA
from mindspeed_dpo.weights.families.mixtral import MIXTRAL
from mindspeed_dpo.weights.families.model_family import HfArchitecture, ModelFamily
from mindspeed_dpo.weights.families.qwen2 import QWEN2
from mindspeed_dpo.weights.families.qwen2_moe import QWEN2_MOE
from mindspeed_dpo.weights.families.qwen3 import QWEN3
from mindspeed_dpo.weights.families.qwen3_moe import QWEN3_MOE
from mindspeed_dpo.weights.families.score_head import reward_rules
from mindspeed_dpo.weights.name_mapping import RuleTable

FAMILIES: tuple[ModelFamily, ...] = (LLAMA, QWEN2, QWEN3, MIXTRAL, QWEN2_MOE, QWEN3_MOE, GLM4_MOE)
ARCHITECTURES: dict[str, tuple[ModelFamily, HfArchitecture]] = {
    architecture.model_type: (family, architecture) for family in FAMILIES for architecture in family.architectures
}
"""Family and architecture by `model_type` of config.json."""


def family_of(model: ModelConfig) -> ModelFamily:
    """The family whose biases, norms and kind of experts a model has.

    Raises:
        HfConfigError: No family has this combination.
    """
    for family in FAMILIES:
        if family.has_traits_of(model):
            return family
    alike = [family for family in FAMILIES if (family.experts is not None) == model.has_experts]
    supported = ", ".join(f"{f.name} ({f.add_qkv_bias} and {f.qk_layernorm})" for f in alike)
    raise HfConfigError(
        f"no supported family has add_qkv_bias={model.add_qkv_bias} together with qk_layernorm={model.qk_layernorm}; "
        f"supported: {supported}"
    )


def rules_for(model: ModelConfig, *, reward: bool = False, final_norm: bool = True, head: bool = True) -> RuleTable:
    """The rules of a model's family.

    Args:
        model: The architecture.
        reward: Whether it is a reward model instead of a language model.
        final_norm: Whether the reward model's head reads normalised hidden states.
        head: Whether the reward model's head is read.

    Raises:
        HfConfigError: No family has this combination of biases and norms.
    """
    rules = family_of(model).rules
    return reward_rules(rules, final_norm=final_norm, head=head) if reward else rules
