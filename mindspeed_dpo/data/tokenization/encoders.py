"""The interface of encoders, which convert dialogues to token ids, and their selection by `prompt_type`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mindspeed_dpo.data.tokenization.chat_template_encoder import RESPONSE_ENDS, ChatTemplateEncoder
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RankedTokens, Turn, Turns
from mindspeed_dpo.data.tokenization.plain_encoder import PlainEncoder
from mindspeed_dpo.data.tokenization.template_encoder import TemplateEncoder
from mindspeed_dpo.data.tokenization.template_file import load_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoder(Protocol):
    """Converts pairs and prompts to token ids; one implementation per kind of prompt type."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the token ids, except the vocabulary."""

    @property
    def note(self) -> str | None:
        """Warning about this prompt type for the user, or None."""

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair, as `responses` does.

        Raises:
            RowDropped: The prompt type cannot represent the pair.
        """

    def responses(self, prompt: Prompt, responses: Sequence[Turns]) -> RankedTokens:
        """Tokenize a prompt with two or more responses, so that all have the same prompt ids.

        Raises:
            RowDropped: The prompt type cannot represent them.
        """

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, including the header of the response.

        Raises:
            RowDropped: The prompt type cannot represent the prompt.
        """

    def reference(self, response: Turn) -> str:
        """Return the text of a reference response, with a thought in a field of its own as the model would write it.

        Raises:
            RowDropped: The prompt type cannot represent the thought.
        """


def make_encoder(
    tokenizer: PreTrainedTokenizerBase,
    prompt_type: str,
    prompt_type_path: str | None = None,
    enable_thinking: bool | None = None,
    *,
    mask_history: bool = True,
    response_end: str = RESPONSE_ENDS[0],
) -> Encoder:
    """Create the encoder of a prompt type: a template name, `chat_template` or `plain`.

    Args:
        tokenizer: The tokenizer.
        prompt_type: The prompt type.
        prompt_type_path: Another template file than the one that is shipped.
        enable_thinking: Treatment of thoughts; None decides by the responses.
        mask_history: Score only the messages of the two responses; false scores all of the assistant.
        response_end: One of `RESPONSE_ENDS`, for `chat_template`.

    Raises:
        FileNotFoundError: The template file does not exist.
        ValueError: The template is unknown or malformed, or the tokenizer does not support it.
    """
    if prompt_type == "chat_template":
        return ChatTemplateEncoder(tokenizer, enable_thinking, mask_history=mask_history, response_end=response_end)
    if prompt_type == "plain":
        return PlainEncoder(tokenizer)
    template = load_template(prompt_type, prompt_type_path)
    return TemplateEncoder(template, tokenizer, enable_thinking, mask_history=mask_history)
