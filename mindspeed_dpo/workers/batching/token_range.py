"""Tokens that a model does not have: the sign of data that was preprocessed with another tokenizer."""

from __future__ import annotations

from collections.abc import Sequence


def check_token_range(lowest: int, highest: int, rows: Sequence[int], vocab_size: int) -> None:
    """Check that token ids are those of a model.

    Args:
        lowest: Smallest token id of the rows.
        highest: Largest one.
        rows: Dataset rows that were read, for the message.
        vocab_size: Number of tokens of the model.

    Raises:
        ValueError: One of them is not.
    """
    if lowest < 0 or highest >= vocab_size:
        token = lowest if lowest < 0 else highest
        raise ValueError(
            f"rows {list(rows)} contain token {token}, but the model has vocab_size={vocab_size}: the data was "
            "preprocessed with another tokenizer; preprocess it again with the model's own"
        )
