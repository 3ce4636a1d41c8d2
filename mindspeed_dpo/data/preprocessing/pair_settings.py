"""Settings of preprocessing that concern pairs only, and which of them apply to a handler and a prompt type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.preprocessing.handler_table import SCORE_COLUMNS, Handler
from mindspeed_dpo.data.preprocessing.pair_candidates import RULES
from mindspeed_dpo.data.preprocessing.rankings import LIST
from mindspeed_dpo.data.tokenization.encoders import RESPONSE_ENDS

PAIR_DEFAULTS: Mapping[str, Any] = {
    "mask_history": True,
    "response_end": "template",
    "pair_selection": "best_worst",
    "min_score_margin": 0.0,
}
"""Settings of pairs -> their defaults in `PreprocessSettings`."""


def pair_problems(
    settings: Mapping[str, Any], handler: Handler, map_keys: Mapping[str, Any], prompt_type: str | None
) -> list[str]:
    """Check the settings of pairs; return one sentence for each problem.

    Args:
        settings: Values of `PAIR_DEFAULTS`.
        handler: The handler.
        map_keys: The keys of the handler that are given.
        prompt_type: Template name, `chat_template` or `plain`.
    """
    problems = []
    for name, choices in (("response_end", RESPONSE_ENDS), ("pair_selection", (*RULES, LIST))):
        if settings[name] not in choices:
            suggestion = did_you_mean(settings[name], choices)
            problems.append(f"{name} should be one of {', '.join(choices)}, got {settings[name]!r}{suggestion}")
    if settings["min_score_margin"] < 0:
        problems.append(f"min_score_margin should be at least 0, got {settings['min_score_margin']}")
    ratings = handler.rating_columns(map_keys)
    named = {
        "mask_history": (handler.kind == "pair", "needs a pair handler"),
        "response_end": (handler.kind == "pair" and prompt_type == "chat_template",
                         "needs a pair handler and prompt_type chat_template; named templates have their own ends"),
        "pair_selection": ("responses" in handler.columns.listed, "needs RankedResponsesPairwiseHandler"),
        "min_score_margin": (bool(ratings), "needs scores; name their columns in map_keys, such as score_chosen"),
    }  # fmt: skip
    for name, (applies, need) in named.items():
        if settings[name] != PAIR_DEFAULTS[name] and not applies:
            problems.append(f"{name} {need}")
    scores = [map_keys.get(name) for name in SCORE_COLUMNS[:2]]
    if any(scores) and not all(scores):
        problems.append("map_keys: score_chosen and score_rejected are named together")
    return problems
