"""Selects the tokenizer of the reward model: on the driver, which checks it, and on the workers, which use it."""

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
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.weights.hf.hf_assets import find_assets
from mindspeed_dpo.workers.rewards.detokenization import MESSAGES, TextReader
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier, load_classifier_tokenizer
from mindspeed_dpo.workers.rewards.retokenization import Retokenizer, SameTokenizer, TokenConverter
from mindspeed_dpo.workers.scorer import PromptColumns

logger = logging.getLogger(__name__)


class _NoColumns:
    """A dataset without columns, where only tokenizers are checked."""

    def columns(self, rows: Sequence[int] | NDArray[np.int64]) -> Mapping[str, Sequence[Any]]:
        """Return no columns."""
        return {}


def check_reward_tokenizer(run: RunConfig, prompts: PromptColumns | None = None) -> None:
    """Check that a reward model can read the policy's responses; what else scores reads text.

    Args:
        run: Settings of the run.
        prompts: The dataset, to check that it has messages if a template needs them.

    Raises:
        ValueError: Policy and reward model have different tokenizers and `reward_tokenizer` is not set, a tokenizer or
            template cannot be loaded, or messages are missing.
    """
    role = run.reward
    if role is None or role.reward_source != "model":
        return
    if is_classifier(role):
        load_classifier_tokenizer(role)
        policy_tokenizer(run)
    else:
        token_converter(run, role, prompts or _NoColumns())
    if prompts is not None and role.reward.reward_prompt_type and MESSAGES not in prompts.columns([0]):
        raise ValueError(
            f"reward_prompt_type={role.reward.reward_prompt_type} needs the messages of the prompts, which "
            f"{run.actor.data.data_path} does not have; preprocess it again, or remove reward_prompt_type"
        )


def token_converter(run: RunConfig, role: RoleConfig, prompts: PromptColumns) -> TokenConverter:
    """Return the conversion of rollouts to the tokens of the reward model.

    Raises:
        ValueError: The tokenizers do not fit; `check_reward_tokenizer` states the reasons.
    """
    settings, policy_folder = role.reward, policy_tokenizer(run)
    folder = _reward_tokenizer(role, policy_folder)
    differs = tokenizer_fingerprint(folder) != tokenizer_fingerprint(policy_folder)
    if differs and not settings.reward_tokenizer:
        raise ValueError(
            f"the tokenizer of the reward model {role.checkpoint.load} differs from the policy's ({folder} and "
            f"{policy_folder}); set reward_tokenizer: {folder} to tokenise responses again"
        )
    if not differs and not settings.reward_prompt_type:
        extract = settings.extract_content_for_reward
        return SameTokenizer(load_tokenizer(policy_folder) if extract else None)
    policy, tokenizer = load_tokenizer(policy_folder), load_tokenizer(folder, key="reward_tokenizer")
    if len(tokenizer) > role.model.vocab_size:
        raise ValueError(
            f"reward_tokenizer: {folder} has {len(tokenizer)} tokens, the reward model {role.model.vocab_size}; "
            "set it to the tokenizer that the model was trained with"
        )
    reader = TextReader(policy, prompts, extract_answer=settings.extract_content_for_reward)
    encoder = _encoder(tokenizer, settings.reward_prompt_type)
    return Retokenizer(reader, policy, tokenizer, encoder, needs_messages=settings.reward_prompt_type is not None)


def policy_tokenizer(run: RunConfig) -> Path:
    """Return the folder of the policy's tokenizer: the configured one, or that of its weights.

    Raises:
        ValueError: Neither has a tokenizer.
    """
    actor = run.actor
    folder = _tokenizer_beside(actor.data.tokenizer_name_or_path) or _tokenizer_beside(actor.checkpoint.load)
    if folder is None:
        raise ValueError(
            f"tokenizer_name_or_path={actor.data.tokenizer_name_or_path} has no tokenizer, nor does "
            f"load={actor.checkpoint.load}; set the policy's tokenizer, which is compared with the reward model's"
        )
    return folder


def _reward_tokenizer(role: RoleConfig, policy: Path) -> Path:
    configured, load = role.reward.reward_tokenizer, role.checkpoint.load
    if configured:
        folder = _tokenizer_beside(configured)
        if folder is None:
            raise ValueError(f"reward_tokenizer: {configured} has no tokenizer")
        return folder
    folder = _tokenizer_beside(load)
    if folder is not None or role.checkpoint.random_init:
        return folder or policy
    raise ValueError(
        f"load of section reward: {load} has no tokenizer beside it, so it is unknown whether it uses the "
        f"policy's; set reward_tokenizer to its folder ({policy} if it is the policy's)"
    )


def _tokenizer_beside(path: str | Path | None) -> Path | None:
    """Return the folder or, for a checkpoint, that of its Hugging Face files; None without a tokenizer."""
    if path is None:
        return None
    candidates = (expanded_path(path), find_assets(expanded_path(path)))
    return next((folder for folder in candidates if folder is not None and has_tokenizer(folder)), None)


def _encoder(tokenizer: Any, prompt_type: str | None) -> Encoder | None:
    """Return the encoder of the configured template, or of the tokenizer's own; None without one."""
    if prompt_type is not None:
        return make_encoder(tokenizer, prompt_type)
    return make_encoder(tokenizer, "chat_template") if tokenizer.chat_template else None
