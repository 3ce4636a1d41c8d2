"""Token ids of a text, with the check that the text can be tokenized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindspeed_dpo.data.tokenization.examples import RowDropped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, without the special tokens that a tokenizer adds to its input.

    Raises:
        RowDropped: The text has half of a surrogate pair, which JSON can express and UTF-8 and tokenizers cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowDropped("not_unicode", f"character {error.start + 1} of a text: {text[error.start]!a}") from error
    return list(tokenizer.encode(text, add_special_tokens=False))
