"""Online DPO: sampling of responses, selection of pairs, and rewards."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import FRACTION, POSITIVE, ValueCheck, at_least, setting, within

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PATH = ValueCheck(lambda path: bool(_DOTTED.fullmatch(path)), "a dotted path such as package.module.function")
PATHS = ValueCheck(lambda paths: all(map(PATH.accepts, paths)), "dotted paths such as package.module.function")
POSITIVE_FRACTION = ValueCheck(lambda value: 0 < value <= 1, "more than 0 and at most 1")
DPO, XPO, NASH_MD = "dpo", "xpo", "nash_md"


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Generation of responses by the policy."""

    n_samples_per_prompt: int = setting(
        2,
        help="Responses sampled for each prompt; 1 (the default of MindSpeed-LLM) is read as 2.",
        unit="responses",
        check=at_least(1),
    )
    max_prompt_length: int = setting(512, help="Maximum length of a prompt.", unit="tokens", check=at_least(1))
    prompt_truncation: str = setting(
        "drop",
        help="Handling of prompts longer than max_prompt_length: drop skips the prompt, keep_last removes tokens from "
        "its start.",
        choices=("drop", "keep_last"),
    )
    temperature: float = setting(0.7, help="Sampling temperature: logits are divided by it.", check=POSITIVE)
    top_k: int = setting(
        0, help="Sample from the k most probable tokens; 0 uses all tokens.", unit="tokens", check=at_least(0)
    )
    top_p: float = setting(
        1.0,
        help="Sample from the most probable tokens with this total probability; 1 uses all tokens.",
        check=POSITIVE_FRACTION,
    )
    min_p: float = setting(
        0.0,
        help="Exclude tokens whose probability is below this fraction of the most probable token's.",
        check=within(0, 1),
    )
    repetition_penalty: float = setting(
        1.0,
        help="Divide positive and multiply negative logits of tokens that already occurred by this; 1 disables it.",
        check=POSITIVE,
    )
    num_samples_per_step: int | None = setting(
        None,
        help="Prompts per generation call of one replica; null uses all prompts of the replica.",
        unit="prompts",
        check=at_least(1),
    )
    rollout_slots: int = setting(
        64,
        help="Responses that one replica decodes concurrently; a finished response frees its slot for the next.",
        unit="responses",
        check=at_least(1),
    )
    decode_rows: int = setting(
        16,
        help="Rows of one decoding pass, unused rows included. The number is constant so that a response does not "
        "depend on the others in its batch.",
        unit="rows",
        check=at_least(1),
    )
    max_tokens_to_oom: int = setting(
        12000,
        help="Maximum tokens in the key-value cache of one replica; a generation call that needs more is refused.",
        unit="tokens",
        check=at_least(1),
    )
    inference_tensor_model_parallel_size: int = setting(
        derived="tensor_model_parallel_size",
        help="Tensor-parallel size of the rollout.",
        unit="devices",
        check=at_least(1),
    )
    inference_expert_model_parallel_size: int = setting(
        derived="expert-parallel size of training, or its largest usable divisor",
        help="Expert-parallel size of the rollout: devices that share the experts of every layer. A multiple or a "
        "divisor of inference_tensor_model_parallel_size.",
        unit="devices",
        check=at_least(1),
    )
    num_gpus_for_train: int | None = setting(
        None,
        help="Devices of resource_pool.actor_rollout that train, counted from the first; null uses those that "
        "num_gpus_for_infer leaves.",
        unit="devices",
        check=at_least(1),
    )
    num_gpus_for_infer: int | None = setting(
        None,
        help="Devices of resource_pool.actor_rollout that only generate, counted from the last; 0 generates on the "
        "training devices, null uses those that num_gpus_for_train leaves.",
        unit="devices",
        check=at_least(0),
    )
    publish_bucket_bytes: int = setting(
        256 * 1024 * 1024,
        help="Maximum size of one transfer when weights are sent to the rollout.",
        unit="bytes",
        check=at_least(1),
    )
    rollout_staleness: int = setting(
        0,
        help="With 1, the rollout generates on its own devices for the next iteration while the actor trains on this "
        "one, with weights that are one iteration old. With 0, it waits for the new weights.",
        unit="iterations",
        check=ValueCheck(lambda value: value in (0, 1), "0 or 1"),
    )
    md5_validate: bool = setting(
        False,
        help="Compare hashes of all weights after each transfer to the rollout, and stop the run on a mismatch.",
    )
    log_samples_interval: int | None = setting(
        None,
        help="Iterations between tables of sample responses with their scores; null or 0 writes none.",
        unit="iterations",
        check=at_least(0),
        shared=True,
    )


@dataclass(frozen=True, kw_only=True)
class PairingConfig:
    """Selection of pairs from the responses, and optimizer steps per iteration."""

    online_method: str = setting(
        DPO,
        help="Method: dpo compares responses of the policy; xpo compares one response of the policy with one of the "
        "reference and adds an exploration bonus; nash_md compares one response of the policy with one of a mixture of "
        "policy and reference and trains by policy gradient.",
        choices=(DPO, XPO, NASH_MD),
    )
    xpo_alpha: float = setting(
        1e-5,
        help="Weight of XPO's exploration bonus, the log-probability of the reference's response.",
        unit="1/nat",
        check=at_least(0),
    )
    nash_md_mixture: float = setting(
        0.5, help="Weight of the reference's logits in the mixture policy of Nash-MD.", check=FRACTION
    )
    pair_selection: str = setting(
        "best_worst",
        help="Pairs made from the responses to a prompt: best_worst takes the highest and the lowest score, random "
        "takes two at random, all takes every combination of two.",
        choices=("best_worst", "random", "all"),
    )
    min_reward_margin: float = setting(
        0.0,
        help="Minimum difference of the two scores of a pair; pairs with equal scores are always discarded.",
        check=at_least(0),
    )
    missing_eos_penalty: float = setting(
        0.0, help="Penalty subtracted from the score of a response without an end token.", check=at_least(0)
    )
    ppo_mini_batch_size: int = setting(
        derived="global_batch_size", help="Pairs per optimizer step.", unit="pairs", check=at_least(1)
    )
    ppo_epochs: int = setting(1, help="Passes over the pairs of one iteration.", unit="epochs", check=at_least(1))
    shuffle_minibatch: bool = setting(False, help="Shuffle the pairs before each pass.")

    @property
    def samples_from_reference(self) -> bool:
        """Whether one of two responses comes from another model than the policy, which is built on the reference."""
        return self.online_method != DPO


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The source of rewards: exactly one of a model (`load` in section reward), reward functions, or a judge."""

    reward_functions: tuple[str, ...] = setting(
        (),
        help="Dotted paths (package.module.function) of functions that score responses; their scores are summed.",
        check=PATHS,
    )
    reward_weights: tuple[float, ...] = setting(
        (), help="Weight of each function of reward_functions; empty weights each by 1."
    )
    judge: str | None = setting(
        None, help="Dotted path of a function that chooses the better of two responses.", check=PATH
    )
    reward_timeout_s: float = setting(
        60.0, help="Timeout of one call of a reward function or judge.", unit="seconds", check=POSITIVE
    )
    reward_failure: str = setting(
        "drop",
        help="Handling of a prompt whose responses cannot be scored: drop discards and counts it, stop ends the run.",
        choices=("drop", "stop"),
    )
    extract_content_for_reward: bool = setting(
        False,
        help="Score only the text between `<answer>` and `</answer>`, or the complete response if there is none.",
    )
    dataset_additional_keys: tuple[str, ...] = setting(
        (), help="Columns of the prompt data that are passed to reward functions or the judge."
    )
    reward_tokenizer: str | None = setting(
        None,
        help="Directory of the reward model's tokenizer if it is not the policy's; responses are then retokenized.",
        is_path=True,
    )
    reward_prompt_type: str | None = setting(
        None,
        help="Chat template of the reward model: the name of a template, or chat_template for the template of its "
        "tokenizer. Requires prompts with messages.",
    )
    no_post_layer_norm: bool = setting(False, help="Skip the final norm before the reward head.")
    offload: bool = setting(
        False, help="Keep the weights of reference and reward model in host memory while they are not in use."
    )

    @property
    def reward_source(self) -> str:
        """What scores the responses: `model`, `functions` or `judge`."""
        if self.reward_functions:
            return "functions"
        return "judge" if self.judge else "model"
