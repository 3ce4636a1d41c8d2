"""Keys seen in a short online run, one process, two iterations of four prompts with three responses each."""

from __future__ import annotations

from tests.config_effects.comparison import Shown, Turn

TWO = {"n_samples_per_prompt": 2}

SAMPLING: dict[str, Turn | Shown] = {
    "n_samples_per_prompt": Turn(2, "objective/scores"),
    "temperature": Turn(0.2, "objective/entropy"),
    "top_k": Turn(2, "objective/entropy"),
    "top_p": Turn(0.2, "objective/entropy"),
    "min_p": Turn(0.5, "objective/entropy"),
    "repetition_penalty": Turn(5.0, "objective/entropy"),
    "max_prompt_length": Turn(3, "prompt_length/mean"),
    "prompt_truncation": Turn("keep_last", "prompt_length/mean", {"max_prompt_length": 3}),
}

PAIRING: dict[str, Turn | Shown] = {
    "online_method": Turn("xpo", "loss", TWO),
    "xpo_alpha": Turn(0.5, "loss", {**TWO, "online_method": "xpo"}),
    "nash_md_mixture": Turn(0.9, "objective/scores_margin", {**TWO, "online_method": "nash_md", "lr": 0.3}),
    "pair_selection": Turn("all", "pairs/count"),
    "min_reward_margin": Turn(8, "pairs/count"),
    "missing_eos_penalty": Turn(3, "objective/scores"),
    "ppo_mini_batch_size": Turn(2, "loss"),
    "ppo_epochs": Turn(2, "loss"),
    "shuffle_minibatch": Turn(True, "loss", {"ppo_mini_batch_size": 2}),
    "reward_weights": Turn([3.0], "objective/scores"),
    "reward_functions": Turn(["tests.support.reward_functions.first_token"], "objective/scores"),
}
