"""Rollouts as text: what functions and judges read of a prompt and its responses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.rewards.scorer import PromptColumns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MESSAGES = "messages"
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
# Of a long prompt, what an error shows: its start names the template, its end the question.
_HEAD, _TAIL = 40, 80


@dataclass(frozen=True)
class PromptText:
    """One prompt and its K responses.

    Attributes:
        row: Dataset row of the prompt.
        prompt: The text that the policy continued, special tokens of the template included.
        completions: [K] texts of the responses, or of the answers in them, without special tokens and stop token.
        completion_ids: [K] token ids of the whole responses, stop token included.
        columns: The prompt's values by column: `messages`, and the additional keys.
    """

    row: int
    prompt: str
    completions: tuple[str, ...]
    completion_ids: tuple[list[int], ...]
    columns: Mapping[str, Any]

    def __str__(self) -> str:
        """How an error names the prompt."""
        text = self.prompt
        short = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} … {text[-_TAIL:]}"
        return f"prompt {short!r} (dataset row {self.row})"


class TextReader:
    """Rollouts as text, by the policy's tokenizer, with the columns of their prompts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: PromptColumns,
        additional_keys: Sequence[str] = (),
        *,
        extract_answer: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._dataset = dataset
        self._names = [MESSAGES, *(key for key in additional_keys if key != MESSAGES)]
        self._extract = extract_answer

    def read(self, rollouts: RolloutBatch) -> list[PromptText]:
        """The P prompts with their responses, in order.

        Raises:
            ValueError: The prompt set lacks a column.
        """
        columns = self._columns(rollouts)
        prompts, responses = rollouts.answers.prompts(), rollouts.answers.responses()
        read = []
        for p, row in enumerate(rollouts.rows.tolist()):
            ids = tuple(response.tolist() for response in responses[p])
            texts = zip(ids, rollouts.ended[p].tolist(), strict=True)
            read.append(
                PromptText(
                    row=row,
                    prompt=self._decode(prompts[p].tolist(), skip_special_tokens=False),
                    completions=tuple(self._completion(tokens, ended) for tokens, ended in texts),
                    completion_ids=ids,
                    columns={name: values[p] for name, values in columns.items()},
                )
            )
        return read

    def _completion(self, tokens: Sequence[int], ended: bool) -> str:
        # A template's stop word need not be a special token of the tokenizer.
        text = self._decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        return extracted_answer(text) if self._extract else text

    def _decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        # Clean-up would take away spaces that the policy wrote.
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def _columns(self, rollouts: RolloutBatch) -> dict[str, Sequence[Any]]:
        found = self._dataset.columns(rollouts.rows.numpy())
        absent = [name for name in self._names if name not in found and name != MESSAGES]
        if absent:
            raise ValueError(
                f"dataset_additional_keys names {absent[0]}, but the prompt set has only the columns "
                f"{', '.join(found)}; preprocess it with dataset_additional_keys: [{', '.join(absent)}]"
            )
        return {name: found[name] for name in self._names if name in found}


def extracted_answer(text: str) -> str:
    """What stands between <answer> and </answer>, the last pair if there are several, all of the text if none."""
    answers = _ANSWER.findall(text)
    return str(answers[-1]) if answers else text
