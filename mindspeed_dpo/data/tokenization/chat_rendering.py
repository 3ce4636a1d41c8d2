"""Rendering of a tokenizer's chat template, a program of its authors that may fail or never end.

Jinja's sandbox prevents a template from reaching other objects, but does not limit the time and memory it takes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.untrusted.errors import QuotingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_RENDERING_S = 10.0
"""Limit for rendering one dialogue, in seconds of processor time; templates take about a millisecond."""
MAX_RENDERED_CHARACTERS = 1 << 26


class ChatTemplateError(QuotingError):
    """Raised for a chat template that does not end."""


def render_dialogue(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    add_generation_prompt: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """Render messages with the chat template of a tokenizer.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: Messages with `role` and `content`, and `tool_calls`.
        options: Further variables of the template.
        add_generation_prompt: Whether the header of a response is appended.
        tools: Definitions of tools in the form of OpenAI; None for none.

    Raises:
        ChatTemplateError: Rendering takes more than `MAX_RENDERING_S`.
        RowDropped: The template rejects the messages or fails, or the text is too long.
    """
    try:
        with _time_limit(MAX_RENDERING_S):
            text = tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **options,
            )
    except TimeoutError as error:
        raise ChatTemplateError(
            f"prompt_type chat_template: the chat template of {tokenizer.name_or_path} did not end within "
            f"{MAX_RENDERING_S:g} s for a dialogue of {len(messages)} messages; correct it, or choose a named template"
        ) from error
    except Exception as error:  # A template is a program: it may raise anything, which concerns this row only.
        raise RowDropped("refused_by_template", str(error) or type(error).__name__) from error
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise RowDropped("refused_by_template", f"the rendered text has {len(text)} characters")
    return str(text)


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError within the block after this time; signals reach the main thread only, others have no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGVTALRM, _raise_timeout)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _raise_timeout(*_: object) -> None:
    raise TimeoutError
