"""Whose tokens the reward model reads: decided and checked the same way on the driver and in the workers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.data.tokenization.encoders import Encoder, make_encoder
from mindspeed_dpo.data.tokenization.tokenizer import has_tokenizer, load_tokenizer, tokenizer_fingerprint
from mindspeed_dpo.weights.assets import find_assets
from mindspeed_dpo.workers.rewards.decoding import MESSAGES, TextReader
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier, load_classifier_tokenizer
from mindspeed_dpo.workers.rewards.retokenization import NewTokens, SameTokens, Writer
from mindspeed_dpo.workers.rewards.scorer import PromptColumns

logger = logging.getLogger(__name__)


class _NoColumns:
    """Stands for the prompt set where only tokenizers are looked at."""

    def columns(self, rows: Sequence[int] | NDArray[np.int64]) -> Mapping[str, Sequence[Any]]:
        """None."""
        return {}


def check_reward_tokenizer(run: RunConfig, prompts: PromptColumns | None = None) -> None:
    """See on the driver that a reward model can read what the policy writes; functions and judges read text.

    Args:
        run: The whole run.
        prompts: The prompt set, to see that it has messages where a template needs them.

    Raises:
        ValueError: Policy and reward model have different tokenizers and none is named, a tokenizer or template cannot
            be loaded, or messages are missing.
    """
    role = run.reward
    if role is None or role.reward.reward_functions or role.reward.judge:
        return
    if is_classifier(role):
        load_classifier_tokenizer(role)
        policy_tokenizer(run)
    else:
        reward_writer(run, role, prompts or _NoColumns())
    if prompts is not None and role.reward.reward_prompt_type and MESSAGES not in prompts.columns([0]):
        raise ValueError(
            f"reward_prompt_type={role.reward.reward_prompt_type} needs the messages of the prompts, which "
            f"{run.actor.data.data_path} does not have; preprocess it again, or leave reward_prompt_type out"
        )


def reward_writer(run: RunConfig, role: RoleConfig, prompts: PromptColumns) -> Writer:
    """How rollouts get the tokens of the reward model.

    Raises:
        ValueError: See `check_reward_tokenizer`.
    """
    settings, policy_folder = role.reward, policy_tokenizer(run)
    folder = _reward_tokenizer(role, policy_folder)
    anew = tokenizer_fingerprint(folder) != tokenizer_fingerprint(policy_folder)
    if anew and not settings.reward_tokenizer:
        raise ValueError(
            f"the reward model {role.checkpoint.load} has another tokenizer than the policy ({folder} and "
            f"{policy_folder}); set reward_tokenizer: {folder} to have responses tokenised anew"
        )
    if not anew and not settings.reward_prompt_type:
        extract = settings.extract_content_for_reward
        return SameTokens(load_tokenizer(policy_folder) if extract else None)
    policy, tokenizer = load_tokenizer(policy_folder), load_tokenizer(folder)
    if len(tokenizer) > role.model.vocab_size:
        raise ValueError(
            f"reward_tokenizer: {folder} knows {len(tokenizer)} tokens, the reward model {role.model.vocab_size}; "
            "name the tokenizer the model was made with"
        )
    reader = TextReader(policy, prompts, extract_answer=settings.extract_content_for_reward)
    encoder = _encoder(tokenizer, settings.reward_prompt_type)
    return NewTokens(reader, policy, tokenizer, encoder, needs_messages=settings.reward_prompt_type is not None)


def policy_tokenizer(run: RunConfig) -> Path:
    """The directory of the policy's tokenizer: the one that is named, or what lies beside its weights.

    Raises:
        ValueError: There is none.
    """
    actor = run.actor
    folder = _tokenizer_beside(actor.data.tokenizer_name_or_path) or _tokenizer_beside(actor.checkpoint.load)
    if folder is None:
        raise ValueError(
            f"tokenizer_name_or_path={actor.data.tokenizer_name_or_path} holds no tokenizer, nor does "
            f"load={actor.checkpoint.load}; name the policy's tokenizer, which the reward model's is compared with"
        )
    return folder


def _reward_tokenizer(role: RoleConfig, policy: Path) -> Path:
    named, load = role.reward.reward_tokenizer, role.checkpoint.load
    if named:
        folder = _tokenizer_beside(named)
        if folder is None:
            raise ValueError(f"reward_tokenizer: {named} holds no tokenizer")
        return folder
    folder = _tokenizer_beside(load)
    if folder is not None or role.checkpoint.random_init:
        return folder or policy
    raise ValueError(
        f"load of section reward: {load} has no tokenizer beside it, so whether it reads the policy's tokens is "
        f"unknown; set reward_tokenizer to its directory ({policy} if it is the policy's)"
    )


def _tokenizer_beside(path: str | Path | None) -> Path | None:
    """The directory itself or, of a checkpoint, the one with the Hugging Face files; None without a tokenizer."""
    if path is None:
        return None
    candidates = (Path(path).expanduser(), find_assets(Path(path).expanduser()))
    return next((folder for folder in candidates if folder is not None and has_tokenizer(folder)), None)


def _encoder(tokenizer: Any, prompt_type: str | None) -> Encoder | None:
    """The template that is named, else the tokenizer's own where it has one."""
    if prompt_type is not None:
        return make_encoder(tokenizer, prompt_type)
    return make_encoder(tokenizer, "chat_template") if tokenizer.chat_template else None
