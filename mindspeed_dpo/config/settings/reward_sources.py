"""Online DPO: what scores the responses, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import POSITIVE, ValueCheck, setting

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PATH = ValueCheck(lambda path: bool(_DOTTED.fullmatch(path)), "a dotted path such as package.module.function")
PATHS = ValueCheck(lambda paths: all(map(PATH.accepts, paths)), "dotted paths such as package.module.function")


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
        """The source of the scores: `model`, `functions` or `judge`."""
        if self.reward_functions:
            return "functions"
        return "judge" if self.judge else "model"
