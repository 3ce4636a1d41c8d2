"""Reward models: a family's tensors with a head of one score instead of the vocabulary's."""

from __future__ import annotations

from mindspeed_dpo.weights.layouts import ScoreBias, ScoreHead
from mindspeed_dpo.weights.rules import OUTPUT_LAYER, SCORE_HEAD, Rule, RuleTable

HEAD: RuleTable = (
    Rule(SCORE_HEAD, ("score.weight",), ScoreHead(), where="last"),
    Rule("rm_head.bias", (), ScoreBias(), where="last", optional=True),
)
FINAL_NORM = "decoder.final_layernorm.weight"


def reward_rules(family: RuleTable, *, final_norm: bool = True) -> RuleTable:
    """The table of a family's reward models.

    Args:
        family: The table of its language models.
        final_norm: Whether the head reads normed hidden states; otherwise the norm is no part of the model.
    """
    replaced = {OUTPUT_LAYER} if final_norm else {OUTPUT_LAYER, FINAL_NORM}
    return (*(rule for rule in family if rule.mcore not in replaced), *HEAD)
