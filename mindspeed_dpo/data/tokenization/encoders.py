"""The choice of an encoder: how `prompt_type` turns dialogues into token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt
from mindspeed_dpo.data.tokenization.template_encoder import TemplateEncoder
from mindspeed_dpo.data.tokenization.templates import load_template
from mindspeed_dpo.data.tokenization.text_encoders import ChatTemplateEncoder, PlainEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoder(Protocol):
    """What every prompt type can do."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def fingerprint(self) -> str:
        """Identity of everything beside the vocabulary that shapes the ids."""

    @property
    def note(self) -> str | None:
        """Something the user should know about this choice, if anything."""

    def pair(self, example: PairExample) -> PairTokens:
        """Ids of a pair; raises `RowDropped` where it cannot be written."""

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, up to where the answer starts."""


def make_encoder(
    tokenizer: PreTrainedTokenizerBase,
    prompt_type: str,
    prompt_type_path: str | None = None,
    enable_thinking: bool | None = None,
) -> Encoder:
    """The encoder of a prompt type: a template's name, `chat_template` or `plain`."""
    if prompt_type == "chat_template":
        return ChatTemplateEncoder(tokenizer, enable_thinking)
    if prompt_type == "plain":
        return PlainEncoder(tokenizer)
    return TemplateEncoder(load_template(prompt_type, prompt_type_path), tokenizer, enable_thinking)
