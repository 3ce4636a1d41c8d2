"""Keys seen in a short online run, one process, two iterations of four prompts with three responses each."""

from __future__ import annotations

from tests.config_effects.comparison import CoveredBy, KeyChange

TWO = {"n_samples_per_prompt": 2}

SAMPLING: dict[str, KeyChange | CoveredBy] = {
    "n_samples_per_prompt": KeyChange(2, "objective/scores"),
    "temperature": KeyChange(0.2, "objective/entropy"),
    "top_k": KeyChange(2, "objective/entropy"),
    "top_p": KeyChange(0.2, "objective/entropy"),
    "min_p": KeyChange(0.5, "objective/entropy"),
    "repetition_penalty": KeyChange(5.0, "objective/entropy"),
    "max_prompt_length": KeyChange(3, "prompt_length/mean"),
    "prompt_truncation": KeyChange("keep_last", "prompt_length/mean", {"max_prompt_length": 3}),
}

PAIRING: dict[str, KeyChange | CoveredBy] = {
    "online_method": KeyChange("xpo", "loss", TWO),
    "xpo_alpha": KeyChange(0.5, "loss", {**TWO, "online_method": "xpo"}),
    "nash_md_mixture": KeyChange(0.9, "objective/scores_margin", {**TWO, "online_method": "nash_md", "lr": 0.3}),
    "pair_selection": KeyChange("all", "pairs/count"),
    "min_reward_margin": KeyChange(8, "pairs/count"),
    "missing_eos_penalty": KeyChange(3, "objective/scores"),
    "ppo_mini_batch_size": KeyChange(2, "loss"),
    "ppo_epochs": KeyChange(2, "loss"),
    "shuffle_minibatch": KeyChange(True, "loss", {"ppo_mini_batch_size": 2}),
    "reward_weights": KeyChange([3.0], "objective/scores"),
    "reward_functions": KeyChange(["tests.support.reward_functions.first_token"], "objective/scores"),
}
