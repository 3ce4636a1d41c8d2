"""Reward models: the tensors of a family with a scalar score head in place of the output layer."""

from __future__ import annotations

from mindspeed_dpo.weights.model_sizes import hidden_size
from mindspeed_dpo.weights.name_mapping import FINAL_NORM, OUTPUT_LAYER, SCORE_HEAD, RuleTable, TensorRule
from mindspeed_dpo.weights.tensor_layouts import Replicated, RowParallel

SCORE_RULES: RuleTable = (
    TensorRule(SCORE_HEAD, ("score.weight",), RowParallel(1, hidden_size), where="last"),
    # The classifiers of transformers have no bias.
    TensorRule("rm_head.bias", (), Replicated(1), where="last", optional=True),
)


def reward_rules(language_model: RuleTable, *, final_norm: bool = True, head: bool = True) -> RuleTable:
    """The rules of a family's reward models.

    Args:
        language_model: The rules of its language models.
        final_norm: Whether the head reads normalised hidden states; otherwise the norm is not part of the model.
        head: Whether the score head is read; otherwise the rules are those of the decoder.
    """
    replaced = {OUTPUT_LAYER} if final_norm else {OUTPUT_LAYER, FINAL_NORM}
    return (*(rule for rule in language_model if rule.mcore not in replaced), *(SCORE_RULES if head else ()))
