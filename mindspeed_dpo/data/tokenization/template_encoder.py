"""Converts dialogues to token ids with a named template.

Every slot is tokenized separately and the ids are concatenated. So no merge of the tokenizer crosses a slot, and both
sequences of a pair have exactly the same prompt ids. The templates are defined in `templates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mindspeed_dpo.data.tokenization.examples import (
    PairExample,
    PairTokens,
    Prompt,
    RankedTokens,
    RowDropped,
    Turn,
    Turns,
)
from mindspeed_dpo.data.tokenization.templates import Slot, Template, Text, Token
from mindspeed_dpo.data.tokenization.thinking import ThoughtMarkers, ThoughtRule
from mindspeed_dpo.data.tokenization.tokenizer import settings_fingerprint, text_ids, token_id, with_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Piece = tuple[list[int], bool]
"""Token ids of a part of a dialogue, and whether they are scored."""


class TemplateEncoder:
    """Encoder of pairs and prompts with one template and one tokenizer."""

    def __init__(
        self,
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        enable_thinking: bool | None = None,
        *,
        mask_history: bool = True,
    ) -> None:
        """Bind a template to a tokenizer.

        Args:
            template: The template.
            tokenizer: The tokenizer, which is copied.
            enable_thinking: Treatment of thoughts, for reasoning templates.
            mask_history: Score only the messages of the responses; false scores all of the assistant.

        Raises:
            ValueError: The tokenizer lacks a token of the template, or the template does not support thinking.
        """
        if enable_thinking and not template.reasoning:
            raise ValueError(
                f"enable_thinking applies to reasoning templates such as qwen3, and {template.name} is not one"
            )
        self.template = template
        self.tokenizer = with_template(tokenizer, template)
        self.enable_thinking = enable_thinking
        self._mask_history = mask_history
        self._thoughts = ThoughtMarkers(*template.thought_words)
        self._token_ids = self._look_up_tokens()

    def _look_up_tokens(self) -> dict[str, int]:
        t = self.template
        slots = (*t.prefix, *t.system, *t.user, *t.assistant, *t.observation, *t.separator)
        named = {slot.name: token_id(self.tokenizer, slot.name) for slot in slots if isinstance(slot, Token)}
        missing = [name for name, index in named.items() if index is None]
        if missing:
            raise ValueError(f"prompt_type {t.name} needs the tokens {', '.join(missing)}, which the tokenizer lacks")
        return {name: index for name, index in named.items() if index is not None}

    @property
    def fingerprint(self) -> str:
        """Hash of the template, its special tokens and the thinking mode."""
        parts = (self.template.fingerprint, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        thinking = self.enable_thinking if self.template.reasoning else None
        return settings_fingerprint(*parts, thinking, *(() if self._mask_history else ("all assistant turns",)))

    @property
    def note(self) -> str | None:
        """Warning if responses have no end token, or None."""
        if self.template.ends_with_eos:
            return None
        name = self.template.name
        return f"prompt_type {name} does not end responses with an end token, so the model does not learn to stop"

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair, as `responses` does."""
        return self.responses(example.prompt, example.responses).pair()

    def responses(self, prompt: Prompt, responses: Sequence[Turns]) -> RankedTokens:
        """Tokenize a prompt with two or more responses, which have one rule about thoughts.

        Raises:
            RowDropped: They use tools, a response has no text apart from its thought, or a message has a thought that
                the template cannot represent.
        """
        self._check_tools(prompt.uses_tools or any(turn.tool_calls for turns in responses for turn in turns))
        texts = [self._with_thought(response[-1]) for response in responses]
        rule = self._rule(texts)
        dialogues = [
            [*self._pieces(prompt, response[:-1], rule), (self._response(text, rule), True)]
            for response, text in zip(responses, texts, strict=True)
        ]
        start = next(index for index, (_, is_scored) in enumerate(dialogues[0]) if is_scored)
        ids, masks = zip(*(_flat(pieces[start:]) for pieces in dialogues), strict=True)
        if not all(mask is None or mask[0] for mask in masks):
            raise RowDropped("empty_response", "a message of the assistant has no tokens")
        return RankedTokens(_flat(dialogues[0][:start])[0], list(ids), list(masks))

    def _check_tools(self, uses_tools: bool) -> None:
        if uses_tools:
            name = self.template.name
            raise RowDropped("tools", f"prompt_type {name} has no form for tools; use prompt_type chat_template")

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, including the header of the response.

        Raises:
            RowDropped: It uses tools, or a message has a thought that the template cannot represent.
        """
        self._check_tools(prompt.uses_tools)
        return _flat(self._pieces(prompt, (), self._rule(())))[0]

    def reference(self, response: Turn) -> str:
        """Return the text of a reference response, with its thought before it.

        Raises:
            RowDropped: It calls tools, or has a thought that the template cannot represent.
        """
        self._check_tools(bool(response.tool_calls))
        return self._with_thought(response)

    def _rule(self, responses: Sequence[str]) -> ThoughtRule | None:
        if not self.template.reasoning:
            return None
        return ThoughtRule.resolve(self.enable_thinking, any(map(self._thoughts.occur_in, responses)))

    def _with_thought(self, response: Turn) -> str:
        """Return the text of a response; a thought in a field of its own is written before it, as in the text."""
        if not response.thought:
            return response.content
        if not self.template.reasoning or self._thoughts.occur_in(response.content):
            place = "its text, too" if self.template.reasoning else f"prompt_type {self.template.name} has no thoughts"
            raise RowDropped("unsupported_field", f"a response has a thought in a field of its own; {place}")
        opening, closing = self._thoughts.opening, self._thoughts.closing
        return f"{opening}{response.thought.strip()}{closing}{response.content}"

    def _response(self, text: str, rule: ThoughtRule | None) -> list[int]:
        if rule and rule.strip:
            text = self._thoughts.remove_from(text)
            if not text.strip():
                raise RowDropped("empty_response", "a response has no text apart from its thought")
        ids = self._fill(self.template.assistant, text)
        if rule and not rule.empty_in_prompt and not self._thoughts.occur_in(text):
            ids = self._tokenize(self._thoughts.empty) + ids
        return ids + self._special("eos_token") if self.template.efficient_eos else ids

    def _pieces(self, prompt: Prompt, more: Turns, rule: ThoughtRule | None) -> Iterator[Piece]:
        """Yield the parts of a prompt and of the messages of a response but its last one."""
        t = self.template
        system = prompt.system or t.default_system
        yield self._fill(t.prefix, ""), False
        if system and not t.system_in_user:
            yield self._fill(t.system, system), False
        first_scored = len(prompt.turns) if self._mask_history else 0
        for position, turn in enumerate((*prompt.turns, *more)):
            if position == len(prompt.turns):
                yield self._empty_thought(rule), False
            index, content = position // 2, turn.content
            if turn.thought and not t.reasoning:
                raise RowDropped("unsupported_field", f"a message has a thought; prompt_type {t.name} has no thoughts")
            if position % 2:
                is_scored = position >= first_scored
                yield self._earlier_response(turn, rule, is_scored), is_scored
                continue
            if position:
                yield self._fill(t.separator, ""), False
            elif system and t.system_in_user:
                content = _fill_as_text(t.system, system) + content
            yield self._fill(t.user if turn.role == "user" else t.observation, content, index), False
        if not more:
            yield self._empty_thought(rule), False

    def _earlier_response(self, turn: Turn, rule: ThoughtRule | None, is_scored: bool) -> list[int]:
        """Return a message of the assistant that others follow; a reasoning template removes its thought."""
        if rule and is_scored and (turn.thought or self._thoughts.occur_in(turn.content)):
            raise RowDropped(
                "changed_by_later_turn", f"prompt_type {self.template.name} removes the thoughts of earlier turns"
            )
        return self._fill(self.template.assistant, self._thoughts.remove_from(turn.content) if rule else turn.content)

    def _empty_thought(self, rule: ThoughtRule | None) -> list[int]:
        return self._tokenize(self._thoughts.empty) if rule and rule.empty_in_prompt else []

    def _fill(self, slots: tuple[Slot, ...], content: str, index: int = 0) -> list[int]:
        ids: list[int] = []
        for slot in slots:
            if isinstance(slot, Text):
                ids += self._tokenize(_fill_text(slot, content, index))
            elif isinstance(slot, Token):
                ids.append(self._token_ids[slot.name])
            else:
                ids += self._special(slot.name)
        return ids

    def _special(self, name: str) -> list[int]:
        index = getattr(self.tokenizer, f"{name}_id")
        return [] if index is None else [index]

    def _tokenize(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text) if text else []


def _flat(pieces: Iterable[Piece]) -> tuple[list[int], list[bool] | None]:
    """Return the tokens of pieces and which of them are scored, None for all."""
    ids: list[int] = []
    scored: list[bool] = []
    for tokens, is_scored in pieces:
        ids += tokens
        scored += [is_scored] * len(tokens)
    return ids, None if all(scored) else scored


def _fill_text(slot: Text, content: str, index: int) -> str:
    """Fill the placeholders of a slot once; placeholders within `content` are not filled."""
    before, placeholder, after = slot.pattern.replace("{{idx}}", str(index), 1).partition("{{content}}")
    return before + content + after if placeholder else before


def _fill_as_text(slots: tuple[Slot, ...], content: str) -> str:
    return "".join(_fill_text(slot, content, 0) for slot in slots if isinstance(slot, Text))
