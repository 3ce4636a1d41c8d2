"""What online DPO adds: how answers are sampled, what scores them, what is learned from them. Settings only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mindspeed_dpo.config.settings.field import POSITIVE, SHARE, Check, at_least, setting, within

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PATH = Check(lambda path: bool(_DOTTED.fullmatch(path)), "a dotted path such as package.module.function")
PATHS = Check(lambda paths: all(map(PATH.holds, paths)), "dotted paths such as package.module.function")
SOME_SHARE = Check(lambda value: 0 < value <= 1, "more than 0 and at most 1")
DPO, XPO, NASH_MD = "dpo", "xpo", "nash_md"


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How the policy answers prompts."""

    n_samples_per_prompt: int = setting(
        2, help="Responses to each prompt; 1, the predecessor's default, is read as 2.", unit="responses",
        check=at_least(1),
    )  # fmt: skip
    max_prompt_length: int = setting(512, help="Longest prompt.", unit="tokens", check=at_least(1))
    prompt_truncation: str = setting(
        "drop",
        help="Too long a prompt: drop leaves it out, keep_last takes tokens from its front.",
        choices=("drop", "keep_last"),
    )
    do_sample: bool = setting(True, help="Sample; two likeliest answers are equal, so false is refused online.")
    temperature: float = setting(0.7, help="Divides the logits while sampling.", check=POSITIVE)
    top_k: int = setting(0, help="Sample among this many likeliest tokens; 0 is all.", check=at_least(0))
    top_p: float = setting(
        1.0, help="Sample among the likeliest tokens of this total probability; 1 is all.", check=SOME_SHARE
    )
    min_p: float = setting(
        0.0, help="Leave out tokens below this share of the likeliest one's probability.", check=within(0, 1)
    )
    repetition_penalty: float = setting(
        1.0, help="Divides positive and multiplies negative logits of tokens that occurred; 1 is off.", check=POSITIVE
    )
    num_samples_per_step: int | None = setting(
        None,
        help="Prompts of one generation call of a replica; null is all of its share.",
        unit="prompts",
        check=at_least(1),
    )
    rollout_slots: int = setting(
        64,
        help="Responses that one replica decodes at once; a finished one makes room for the next.",
        unit="responses",
        check=at_least(1),
    )
    decode_rows: int = setting(
        16,
        help="Rows of one decoding pass, unused ones included: the same count always, so that a response does not "
        "depend on what is decoded beside it.",
        unit="rows",
        check=at_least(1),
    )
    max_tokens_to_oom: int = setting(
        12000,
        help="Stop before a generation call whose cache would hold more tokens than this on one replica.",
        unit="tokens",
        check=at_least(1),
    )
    inference_tensor_model_parallel_size: int = setting(
        derived="tensor_model_parallel_size",
        help="Devices over which the rollout splits every matrix.",
        unit="devices",
        check=at_least(1),
    )
    num_gpus_for_train: int | None = setting(
        None, help="Devices of resource_pool.actor_rollout that train, its first ones.", unit="devices",
        check=at_least(1),
    )  # fmt: skip
    num_gpus_for_infer: int | None = setting(
        None,
        help="Devices of resource_pool.actor_rollout that only generate, its last ones; 0: those that train do.",
        unit="devices",
        check=at_least(0),
    )
    publish_bucket_bytes: int = setting(
        256 * 1024 * 1024,
        help="Most bytes of weights on their way to the rollout at once.",
        unit="bytes",
        check=at_least(1),
    )
    rollout_staleness: int = setting(
        0,
        help="With 1 the rollout, on devices of its own, answers the prompts of the next iteration while the actor "
        "learns from this one, so with weights one iteration older; with 0 it waits for the new weights.",
        unit="iterations",
        check=Check(lambda value: value in (0, 1), "0 or 1"),
    )
    md5_validate: bool = setting(
        False, help="Compare hashes of all weights after they were handed to the rollout; stops on a difference."
    )
    log_samples_interval: int | None = setting(
        None,
        help="Iterations between tables of sample answers with their scores; null or 0 writes none.",
        unit="iterations",
        check=at_least(0),
        shared=True,
    )


@dataclass(frozen=True, kw_only=True)
class PairingConfig:
    """What is learned from responses: which of them become a pair, and how often a step learns from it."""

    online_method: str = setting(
        DPO,
        help="dpo: the policy's responses against each other; xpo: one against one of the reference, with a bonus for "
        "what the reference would not say; nash_md: one against one of a mixture of both, by policy gradient.",
        choices=(DPO, XPO, NASH_MD),
    )
    xpo_alpha: float = setting(
        1e-5, help="Weight of XPO's bonus, the reference's response's log-probability.", unit="1/nat", check=at_least(0)
    )
    nash_md_mixture: float = setting(
        0.5,
        help="Share of the reference's logits in the mixture that Nash-MD plays against; the rest are the policy's.",
        check=SHARE,
    )
    pair_selection: str = setting(
        "best_worst",
        help="best_worst: highest against lowest score; random: two at random; all: every two of a prompt.",
        choices=("best_worst", "random", "all"),
    )
    min_reward_margin: float = setting(
        0.0, help="Pairs whose scores differ by less are left out; equal scores always are.", check=at_least(0)
    )
    missing_eos_penalty: float = setting(
        0.0, help="Subtracted from the score of a response that did not end by itself.", check=at_least(0)
    )
    ppo_mini_batch_size: int = setting(
        derived="global_batch_size", help="Pairs of one optimizer step.", unit="pairs", check=at_least(1)
    )
    ppo_epochs: int = setting(1, help="Passes over the pairs of one iteration.", check=at_least(1))
    shuffle_minibatch: bool = setting(False, help="Shuffle the pairs before each pass.")

    @property
    def samples_from_reference(self) -> bool:
        """Whether the policy gives one response to a prompt and another model, which needs the reference, the other."""
        return self.online_method != DPO


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What scores a response: a model (`load` of section reward), functions, or a judge; exactly one of the three."""

    reward_functions: tuple[str, ...] = setting(
        (),
        help="Dotted paths (package.module.function) of functions that score responses; scores are added up.",
        check=PATHS,
    )
    reward_weights: tuple[float, ...] = setting(
        (), help="Factor on the score of each of reward_functions; empty is 1 for each."
    )
    judge: str | None = setting(
        None, help="Dotted path of a function that names the better of two responses.", check=PATH
    )
    reward_timeout_s: float = setting(
        60.0, help="A call of a reward function or judge that takes longer has failed.", unit="seconds", check=POSITIVE
    )
    reward_failure: str = setting(
        "drop",
        help="A prompt whose responses could not be scored: drop leaves it out and counts it, stop ends the run.",
        choices=("drop", "stop"),
    )
    extract_content_for_reward: bool = setting(
        False, help="Score only what stands between <answer> and </answer>; without them the whole response."
    )
    dataset_additional_keys: tuple[str, ...] = setting(
        (), help="Columns of the prompt set that are handed to reward functions or the judge."
    )
    reward_tokenizer: str | None = setting(
        None,
        help="Directory of the reward model's tokenizer where it is not the policy's; responses are tokenised anew.",
    )
    reward_prompt_type: str | None = setting(
        None, help="Template of the reward model: a name, or chat_template for its tokenizer's own; needs messages."
    )
    no_post_layer_norm: bool = setting(False, help="Leave out the final norm before the reward head.")
    offload: bool = setting(
        False, help="Keep the weights of reference and reward model on the host while they are not at work."
    )

    @property
    def reward_source(self) -> str:
        """What scores: `model`, `functions` or `judge`."""
        if self.reward_functions:
            return "functions"
        return "judge" if self.judge else "model"
