"""Keys of online DPO, known before the online trainer is: a YAML of MindSpeed-LLM 2.0.0 is understood as a whole.

`ONLINE_KEYS` become settings with that trainer; until then they are accepted, and reported where the stage is another.
`LEFTOVERS` and `ALGORITHM` stay what they are: the predecessor's PPO words, which mean nothing to DPO.
"""

from __future__ import annotations

from mindspeed_dpo.config.legacy_keys import Known, no_effect, only

ONLINE_STAGE = "ray_online_dpo"

ONLINE_KEYS: dict[str, str] = {
    "ppo_mini_batch_size": "Pairs of one optimizer step.",
    "ppo_epochs": "Passes over the pairs of one iteration.",
    "shuffle_minibatch": "Shuffle the pairs between passes.",
    "max_prompt_length": "Longest prompt, in tokens.",
    "do_sample": "Sample instead of taking the likeliest token.",
    "temperature": "Divides the logits while sampling.",
    "top_k": "Sample among this many tokens; 0 is all.",
    "top_p": "Sample among the likeliest tokens of this total probability.",
    "num_samples_per_step": "Prompts of one generation call.",
    "n_samples_per_prompt": "Responses of each prompt.",
    "use_kv_cache": "Keep keys and values while generating.",
    "max_tokens_to_oom": "Most tokens of one generation call.",
    "inference_tensor_model_parallel_size": "Tensor-parallel size of the rollout.",
    "num_gpus_for_train": "Devices of the pool that train.",
    "num_gpus_for_infer": "Devices of the pool that generate.",
    "missing_eos_penalty": "Subtracted from the score of a response without an end.",
    "md5_validate": "Compare weights after they were handed to the rollout.",
    "dataset_additional_keys": "Columns carried along to the reward.",
    "extract_content_for_reward": "Score only what stands between <answer> and </answer>.",
    "verifier": "Score by rules instead of a model.",
    "no_post_layer_norm": "Leave out the final norm before the reward head.",
}
"""Key -> what it says, for the settings to come."""

LEFTOVERS: dict[str, Known] = {
    "shuffle": only("it was never a key of the predecessor either; use shuffle_minibatch", False),
    "clip_ratio": no_effect("only PPO clips"),
    "entropy_coeff": no_effect("no loss here has an entropy term"),
    "rollout_batch_size": no_effect("no predecessor read it"),
    "dataset_category": no_effect("only the rule rewards of GRPO read it"),
}
"""Keys of the roles that no version of online DPO uses."""

_PPO = no_effect("only PPO and GRPO use it")
_GRPO = only("it belongs to GRPO, which is not trained here", False, 0)
ALGORITHM: dict[str, Known] = {
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
