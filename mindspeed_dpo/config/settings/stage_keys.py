"""Keys without effect for one of the two stages, and the predecessor's PPO words, which mean nothing to either.

The keys that only online DPO uses are those of its groups in `schema`.
"""

from __future__ import annotations

from mindspeed_dpo.config.legacy.megatron_keys import LegacyKey, no_effect, only

_NO_PAIRS_KEPT = no_effect("online DPO keeps no pairs to evaluate on; the rewards of its answers are logged", 0)
OFFLINE_KEYS: dict[str, LegacyKey] = {
    "truncation": no_effect("prompt_truncation decides what happens to long prompts, and answers are never too long"),
    "reference": no_effect("answers are new in every iteration, so online the reference is always live", "live"),
    "reference_cache_dir": no_effect("online the reference is always live"),
    "eval_interval": _NO_PAIRS_KEPT,
    "eval_iters": _NO_PAIRS_KEPT,
    "eval_data_path": _NO_PAIRS_KEPT,
    "eval_at_start": _NO_PAIRS_KEPT,
    "best_metric": _NO_PAIRS_KEPT,
    "best_metric_mode": _NO_PAIRS_KEPT,
    "early_stop_patience": _NO_PAIRS_KEPT,
    "early_stop_min_delta": _NO_PAIRS_KEPT,
}
"""Settings that only stage dpo uses; the accepted values say what holds online anyway."""

REWARD_KEYS_OF: dict[str, tuple[str, ...]] = {
    "reward_timeout_s": ("functions", "judge"),
    "dataset_additional_keys": ("functions", "judge"),
    "reward_tokenizer": ("model",),
    "reward_prompt_type": ("model",),
    "no_post_layer_norm": ("model",),
}
"""Settings of the reward that only some ways of scoring use."""

LEFTOVERS: dict[str, LegacyKey] = {
    "shuffle": only("it was never a key of the predecessor either; use shuffle_minibatch", False),
    "use_kv_cache": no_effect("keys and values are always kept while generating", True),
    "verifier": only("rules are functions here; name them in reward_functions", False),
    "clip_ratio": no_effect("only PPO clips"),
    "entropy_coeff": no_effect("no loss here has an entropy term"),
    "rollout_batch_size": no_effect("no predecessor read it"),
    "dataset_category": no_effect("only the rule rewards of GRPO read it"),
}
"""Keys of the roles that no version of online DPO uses."""

_PPO = no_effect("only PPO and GRPO use it")
_GRPO = only("it belongs to GRPO, which is not trained here", False, 0)
ALGORITHM: dict[str, LegacyKey] = {
    "gamma": _PPO,
    "lam": _PPO,
    "adv_estimator": _PPO,
    "kl_penalty": _PPO,
    "kl_ctrl.type": _PPO,
    "kl_ctrl.kl_coef": _PPO,
    "missing_eos_penalty": no_effect("set it in actor_rollout_ref.actor_rollout, where it is read"),
    "verifier_function": only("it belongs to GRPO, which is not trained here", []),
    "verifier_weight": only("it belongs to GRPO, which is not trained here", []),
    "advantage_whiten": _GRPO,
}
"""Keys of the section `algorithm`; a dot joins nested names."""
