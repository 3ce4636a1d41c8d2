"""Inputs of Hugging Face sequence classifiers, and their detection, without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.tokenization.encoders import make_encoder
from mindspeed_dpo.data.tokenization.examples import PairExample
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.weights.families import ARCHITECTURES
from mindspeed_dpo.weights.hf.hf_config import num_labels, read_hf_config
from mindspeed_dpo.workers.rewards.detokenization import PromptText
from mindspeed_dpo.workers.rewards.retokenization import conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Features = Mapping[str, list[int]]
"""A tokenised text: `input_ids` and, for some models, `token_type_ids`."""


class TextInputs:
    """Encodes texts in the form a classifier was trained on, as far as its tokenizer shows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_type: str | None = None) -> None:
        """Choose the form.

        Args:
            tokenizer: The classifier's tokenizer.
            prompt_type: `reward_prompt_type`; without it the tokenizer's chat template is used if there is one.

        Raises:
            ValueError: The template does not fit the tokenizer.
        """
        self._tokenizer = tokenizer
        self._needs_messages = prompt_type is not None
        prompt_type = prompt_type or ("chat_template" if tokenizer.chat_template else None)
        self._encoder = make_encoder(tokenizer, prompt_type) if prompt_type else None

    def features(self, text: PromptText, prompt: str, response: str) -> Features:
        """Encode one response with its prompt: as a conversation, a pair of texts, or one text.

        Args:
            text: The prompt, for its messages.
            prompt: Text of the prompt.
            response: Text of the response.

        Raises:
            RowDropped: The conversation cannot be encoded.
            ValueError: A template is configured and the dataset has no messages.
        """
        encoder = self._encoder
        if encoder is not None and (turns := conversation(text)) is not None:
            tokens = encoder.pair(PairExample.of_texts(turns, response, response))
            return {"input_ids": tokens.prompt + tokens.chosen}
        if self._needs_messages:
            raise ValueError("reward_prompt_type needs the messages of the prompts, which the dataset does not have")
        # A tokenizer with a separator, such as BERT's, encodes two texts.
        texts = (prompt, response) if self._tokenizer.sep_token_id is not None else (prompt + response,)
        encoded = self._tokenizer(*texts)
        return {name: list(encoded[name]) for name in ("input_ids", "token_type_ids") if name in encoded}


def is_classifier(role: RoleConfig) -> bool:
    """Return whether the reward's weights are a Hugging Face folder of a model type that has no family here.

    Raises:
        ValueError: config.json cannot be read.
    """
    load = role.checkpoint.load
    if role.checkpoint.random_init or not load or not (Path(load) / "config.json").is_file():
        return False
    return read_hf_config(load).text("model_type", None) not in ARCHITECTURES


def load_classifier_tokenizer(role: RoleConfig) -> PreTrainedTokenizerBase:
    """Load the classifier's tokenizer, and check its config and its template.

    Raises:
        ValueError: It has no tokenizer or several labels, or the template does not fit.
    """
    load = str(role.checkpoint.load)
    labels = num_labels(read_hf_config(load))
    if labels != 1:
        raise ValueError(f"load of section reward: {load} is a classifier with {labels} labels; it must have 1")
    own = role.reward.reward_tokenizer
    tokenizer = load_tokenizer(own or load, key="reward_tokenizer" if own else "load of section reward")
    TextInputs(tokenizer, role.reward.reward_prompt_type)
    return tokenizer
