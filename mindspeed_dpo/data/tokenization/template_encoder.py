"""Converts dialogues to token ids with a named template.

Every slot is tokenized separately and the ids are concatenated. So no merge of the tokenizer crosses a slot, and both
sequences of a pair have exactly the same prompt ids. The templates are defined in `templates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RowDropped, Turn
from mindspeed_dpo.data.tokenization.templates import Slot, Template, Text, Token
from mindspeed_dpo.data.tokenization.thinking import ThoughtMarkers, ThoughtRule
from mindspeed_dpo.data.tokenization.tokenizer import settings_fingerprint, text_ids, token_id, with_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TemplateEncoder:
    """Encoder of pairs and prompts with one template and one tokenizer."""

    def __init__(
        self, template: Template, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None
    ) -> None:
        """Bind a template to a tokenizer.

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
        return settings_fingerprint(*parts, thinking)

    @property
    def note(self) -> str | None:
        """Warning if responses have no end token, or None."""
        if self.template.ends_with_eos:
            return None
        name = self.template.name
        return f"prompt_type {name} does not end responses with an end token, so the model does not learn to stop"

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair.

        Raises:
            RowDropped: A response has no text apart from its thought, or a thought that the template cannot represent.
        """
        responses = [self._with_thought(response) for response in example.responses]
        rule = self._rule(responses)
        chosen, rejected = (self._response(response, rule) for response in responses)
        return PairTokens(self._prompt(example.prompt, rule), chosen, rejected)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, including the header of the response.

        Raises:
            RowDropped: A message has a thought that the template cannot represent.
        """
        return self._prompt(prompt, self._rule(()))

    def reference(self, response: Turn) -> str:
        """Return the text of a reference response, with its thought before it.

        Raises:
            RowDropped: It has a thought that the template cannot represent.
        """
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

    def _prompt(self, prompt: Prompt, rule: ThoughtRule | None) -> list[int]:
        ids = [token for piece in self._turns(prompt, rule) for token in piece]
        return ids + self._tokenize(self._thoughts.empty) if rule and rule.empty_in_prompt else ids

    def _turns(self, prompt: Prompt, rule: ThoughtRule | None) -> Iterator[list[int]]:
        t = self.template
        system = prompt.system or t.default_system
        yield self._fill(t.prefix, "")
        if system and not t.system_in_user:
            yield self._fill(t.system, system)
        for position, turn in enumerate(prompt.turns):
            index, content = position // 2, turn.content
            if turn.thought and not t.reasoning:
                raise RowDropped("unsupported_field", f"a message has a thought; prompt_type {t.name} has no thoughts")
            if position % 2:
                yield self._fill(t.assistant, self._thoughts.remove_from(content) if rule else content)
                continue
            if position:
                yield self._fill(t.separator, "")
            elif system and t.system_in_user:
                content = _fill_as_text(t.system, system) + content
            yield self._fill(t.user if turn.role == "user" else t.observation, content, index)

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


def _fill_text(slot: Text, content: str, index: int) -> str:
    """Fill the placeholders of a slot once; placeholders within `content` are not filled."""
    before, placeholder, after = slot.pattern.replace("{{idx}}", str(index), 1).partition("{{content}}")
    return before + content + after if placeholder else before


def _fill_as_text(slots: tuple[Slot, ...], content: str) -> str:
    return "".join(_fill_text(slot, content, 0) for slot in slots if isinstance(slot, Text))
