"""Text of token ids by the tokenizers library alone, for what people read: transformers takes seconds to import."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.tokenizer_files import check_tokenizer

logger = logging.getLogger(__name__)

FILE = "tokenizer.json"
Decode = Callable[[Sequence[int]], str]


def decoder_of(directory: str | Path | None) -> Decode:
    """Return what turns ids to text, special tokens included; without a tokenizer.json that can be read, to numbers."""
    file = expanded_path(directory) / FILE if directory else None
    if file is None or not file.is_file():
        return as_numbers
    try:
        check_tokenizer(file.parent)
        tokenizer = Tokenizer.from_file(str(file))
    except MalformedDataError as error:
        logger.warning("texts are shown as token ids: %s", error)
        return as_numbers
    except Exception as error:  # tokenizers raises no other type
        logger.warning("texts are shown as token ids: %s cannot be read: %s", file, error)
        return as_numbers
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def as_numbers(ids: Sequence[int]) -> str:
    """Return ids as text, for example `1 5 7`."""
    return " ".join(map(str, ids))
