"""Online DPO: what scores the responses, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.settings.generation import ENGINE_PROCESS_KEYS
from mindspeed_dpo.config.settings.judge_template import PAIRWISE, SCORE, TEMPLATES, VERDICTS
from mindspeed_dpo.config.settings.setting import POSITIVE, ValueCheck, at_least, setting

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PATH = ValueCheck(lambda path: bool(_DOTTED.fullmatch(path)), "a dotted path such as package.module.function")
PATHS = ValueCheck(lambda paths: all(map(PATH.accepts, paths)), "dotted paths such as package.module.function")
SCORE_RANGE = ValueCheck(lambda ends: len(ends) == 2 and ends[0] < ends[1], "two numbers, the smaller one first")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The source of rewards: a model (`load` in section reward), reward functions, a judge, or a judge model."""

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
    judge_model: str | None = setting(
        None,
        help="Hugging Face folder of a language model that judges responses in words; vLLM runs it. Its weights are "
        "never updated.",
        is_path=True,
    )
    judge_mode: str = setting(
        SCORE,
        help="What judge_model is asked: score asks for a number for each response, pairwise which of two responses is "
        "better, for every two responses of a prompt and in both orders.",
        choices=(SCORE, PAIRWISE),
    )
    judge_template: str | None = setting(
        None,
        help="Text of the question to judge_model, with placeholders in braces: response (pairwise: response_a and "
        "response_b), prompt, min_score, max_score, and the columns of dataset_additional_keys; null uses a text of "
        "this package.",
    )
    judge_system: str | None = setting(
        None,
        help="System message before the question to judge_model; text before it where its tokenizer has no chat "
        "template.",
    )
    judge_verdict: str | None = setting(
        None,
        help="Regular expression with one group that finds the verdict in the text of judge_model; the last match "
        "counts. The group is a number, or with pairwise A, B, or C for a tie. null finds [[7]] and [[A]].",
    )
    judge_score_range: tuple[float, ...] = setting(
        (1.0, 10.0),
        help="Least and greatest score of judge_model; a number outside of them is no verdict.",
        check=SCORE_RANGE,
    )
    judge_unparsed_score: float | None = setting(
        None,
        help="Score of a response where the text of judge_model has no verdict; with pairwise that of both responses "
        "in this comparison, 0.5 for a tie. null leaves the prompt without scores, as reward_failure says.",
    )
    judge_max_new_tokens: int = setting(
        1024, help="Maximum length of a text of judge_model.", unit="tokens", check=at_least(1)
    )
    judge_temperature: float = setting(
        0.0, help="Sampling temperature of judge_model; 0 takes the most probable token.", check=at_least(0)
    )
    judge_tensor_model_parallel_size: int = setting(
        1,
        help="Devices of one engine of judge_model; more than 1 requires resource_pool.reward, where each engine has "
        "so many.",
        unit="devices",
        check=at_least(1),
    )
    judge_vllm: Mapping[str, Any] | None = setting(
        None,
        help="Settings of the vLLM engine of judge_model: python, timeout_s and start_timeout_s as in vllm; all other "
        "names are arguments of vLLM's engine, such as gpu_memory_utilization, max_model_len or quantization.",
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
        (),
        help="Columns of the prompt data that are passed to reward functions or the judge, or that a "
        "judge_template names.",
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
        """The source of the scores: `model`, `functions`, `judge` or `judge_model`."""
        if self.reward_functions:
            return "functions"
        if self.judge:
            return "judge"
        return "judge_model" if self.judge_model else "model"

    @property
    def gives_preferences(self) -> bool:
        """Whether a score is a share of comparisons won, so that differences of scores mean nothing."""
        return bool(self.judge) or (self.judge_model is not None and self.judge_mode == PAIRWISE)

    @property
    def judge_question(self) -> str:
        """The template of the questions to the judge model."""
        return self.judge_template or TEMPLATES[self.judge_mode]

    @property
    def judge_pattern(self) -> str:
        """The regular expression that finds a verdict."""
        return self.judge_verdict or VERDICTS[self.judge_mode]

    def judge_vllm_setting(self, name: str) -> Any:
        """Return one of `ENGINE_PROCESS_KEYS` for the engine of the judge model, or its default."""
        value = (self.judge_vllm or {}).get(name)
        return ENGINE_PROCESS_KEYS[name] if value is None else value

    def judge_vllm_arguments(self) -> dict[str, Any]:
        """Return the arguments that are passed to the judge model's engine as they are."""
        return {name: value for name, value in (self.judge_vllm or {}).items() if name not in ENGINE_PROCESS_KEYS}
