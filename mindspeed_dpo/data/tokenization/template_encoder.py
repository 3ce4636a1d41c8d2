"""From dialogues to token ids with a named template.

Every slot is tokenised on its own and the ids are joined, so no merge crosses a slot and both rows of a pair share
their prompt ids exactly. What stands in the slots is described by `templates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mindspeed_dpo.data.indexed.hashing import digest
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RowDropped
from mindspeed_dpo.data.tokenization.templates import Slot, Template, Text, Token
from mindspeed_dpo.data.tokenization.thinking import ThoughtMarkers, ThoughtRule
from mindspeed_dpo.data.tokenization.tokenizer import token_id, with_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TemplateEncoder:
    """Writes pairs and prompts with one template and one tokenizer."""

    def __init__(
        self, template: Template, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None
    ) -> None:
        """Bind a template to a tokenizer.

        Raises:
            ValueError: The tokenizer lacks a token that the template names, or the template has no thoughts to enable.
        """
        if enable_thinking and not template.reasoning:
            raise ValueError(f"enable_thinking applies to reasoning templates such as qwen3; {template.name} is none")
        self.template = template
        self.tokenizer = with_template(tokenizer, template)
        self.enable_thinking = enable_thinking
        self._thoughts = ThoughtMarkers(*template.thought_words)
        self._named = self._look_up_tokens()

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
        """The template with the end token it got."""
        parts = (self.template.fingerprint, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        thinking = self.enable_thinking if self.template.reasoning else None
        return digest(*parts, thinking)

    @property
    def note(self) -> str | None:
        """A warning where no response would ever end."""
        if self.template.ends_with_eos:
            return None
        return f"prompt_type {self.template.name} ends no response with an end token: a model trained on it never stops"

    def pair(self, example: PairExample) -> PairTokens:
        """Ids of a pair."""
        answers = (example.chosen, example.rejected)
        rule = self._rule(answers)
        chosen, rejected = (self._response(answer, rule) for answer in answers)
        return PairTokens(self._prompt(example.prompt, rule), chosen, rejected)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt; there is no answer yet, so none thinks."""
        return self._prompt(prompt, self._rule(()))

    def _rule(self, answers: Sequence[str]) -> ThoughtRule | None:
        if not self.template.reasoning:
            return None
        return ThoughtRule.settle(self.enable_thinking, any(map(self._thoughts.within, answers)))

    def _response(self, text: str, rule: ThoughtRule | None) -> list[int]:
        if rule and rule.strip:
            text = self._thoughts.removed_from(text)
            if not text.strip():
                raise RowDropped("empty_response", "nothing is left of a response without its thought")
        ids = self._fill(self.template.assistant, text)
        if rule and not rule.empty_in_prompt and not self._thoughts.within(text):
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
            if position % 2:
                yield self._fill(t.assistant, self._thoughts.removed_from(content) if rule else content)
                continue
            if position:
                yield self._fill(t.separator, "")
            elif system and t.system_in_user:
                content = _text_of(t.system, system) + content
            yield self._fill(t.user if turn.role == "user" else t.observation, content, index)

    def _fill(self, slots: tuple[Slot, ...], content: str, index: int = 0) -> list[int]:
        ids: list[int] = []
        for slot in slots:
            if isinstance(slot, Text):
                ids += self._tokenize(_filled(slot, content, index))
            elif isinstance(slot, Token):
                ids.append(self._named[slot.name])
            else:
                ids += self._special(slot.name)
        return ids

    def _special(self, name: str) -> list[int]:
        index = getattr(self.tokenizer, f"{name}_id")
        return [] if index is None else [index]

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []


def _filled(slot: Text, content: str, index: int) -> str:
    """The slot's text with its placeholders filled once; content that looks like a placeholder stays as it is."""
    before, found, after = slot.pattern.replace("{{idx}}", str(index), 1).partition("{{content}}")
    return before + content + after if found else before


def _text_of(slots: tuple[Slot, ...], content: str) -> str:
    return "".join(_filled(slot, content, 0) for slot in slots if isinstance(slot, Text))
