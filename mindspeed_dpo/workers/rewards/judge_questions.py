"""Questions to a judge model: its template filled in with a conversation and responses, as tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mindspeed_dpo.config.settings.judge_template import (
    MAX_SCORE,
    MIN_SCORE,
    PROMPT,
    SHOWN,
    filled_template,
    placeholders,
)
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.data.tokenization.chat_rendering import render_dialogue
from mindspeed_dpo.data.tokenization.dialogue_parsing import write_messages
from mindspeed_dpo.data.tokenization.examples import Prompt, RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import text_ids
from mindspeed_dpo.workers.rewards.detokenization import PromptText
from mindspeed_dpo.workers.rewards.retokenization import conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


class JudgeQuestions:
    """Writes the questions to a judge model, with the chat template of its tokenizer if there is one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: RewardConfig, max_question_length: int | None = None
    ) -> None:
        """Choose how questions are written.

        Args:
            tokenizer: The judge model's tokenizer.
            settings: Settings of the reward.
            max_question_length: Most tokens of a question; None for no limit.
        """
        self._tokenizer = tokenizer
        self._settings = settings
        self._max_length = max_question_length
        self._shown = SHOWN[settings.judge_mode]
        self._used = placeholders(settings.judge_question)
        self._special = _any_of(_special_texts(tokenizer))
        low, high = settings.judge_score_range
        self._constants = {MIN_SCORE: f"{low:g}", MAX_SCORE: f"{high:g}"}

    @property
    def num_shown(self) -> int:
        """Number of responses that a question shows."""
        return len(self._shown)

    def ids(self, text: PromptText, prompt: str, shown: Sequence[int]) -> list[int]:
        """Return the tokens of a question.

        Args:
            text: A prompt with its responses.
            prompt: Text of the prompt, which is used where the dataset has no messages.
            shown: Indices of the responses that the question shows.

        Raises:
            RowDropped: The conversation cannot be written, or the question is too long.
        """
        ids = self._encoded(self.text(text, prompt, shown))
        if self._max_length is not None and len(ids) > self._max_length:
            raise RowDropped(
                "too_long",
                f"its question has {len(ids)} tokens, and judge_max_new_tokens={self._settings.judge_max_new_tokens} "
                f"leaves {self._max_length}",
            )
        return ids

    def text(self, text: PromptText, prompt: str, shown: Sequence[int]) -> str:
        """Return the text of a question, before the chat template; arguments as those of `ids`."""
        values: dict[str, Any] = {**text.columns, PROMPT: prompt}
        if PROMPT in self._used and (turns := conversation(text)) is not None:
            values[PROMPT] = conversation_text(turns)
        values |= {name: text.completions[k] for name, k in zip(self._shown, shown, strict=True)}
        inserted = {name: self._harmless(_as_text(values[name])) for name in self._used if name in values}
        return filled_template(self._settings.judge_question, {**self._constants, **inserted})

    def _harmless(self, text: str) -> str:
        """Return a text in which nothing is read as a special token, by which a response could end its turn."""
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text) if self._special else text

    def _encoded(self, question: str) -> list[int]:
        if not self._tokenizer.chat_template:
            question = "\n\n".join(filter(None, [self._settings.judge_system, question]))
            text_ids(self._tokenizer, question)  # refuses what is not Unicode
            return list(self._tokenizer.encode(question))
        system = self._settings.judge_system
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        rendered = render_dialogue(self._tokenizer, messages, {}, add_generation_prompt=True)
        return text_ids(self._tokenizer, rendered)


def conversation_text(prompt: Prompt) -> str:
    """Return a conversation as text: a single message alone, several with their speakers."""
    messages = write_messages(prompt)
    if len(messages) == 1 and not prompt.uses_tools:
        return str(messages[0]["content"])
    tools = [f"Tools: {prompt.tools}"] if prompt.tools else []
    return "\n\n".join([*tools, *(f"{_SPEAKERS[message['role']]}: {_content(message)}" for message in messages)])


def _content(message: dict[str, Any]) -> str:
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, [message["content"], *calls]))


def _as_text(value: Any) -> str:
    """Return the value of a column as text: nothing for null, JSON for what is neither text nor null."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {token for token in (*tokenizer.all_special_tokens, *added) if token}


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of any of these texts, the longest first; None without any."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
