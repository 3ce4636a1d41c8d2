"""Decodes rollouts to the text that functions, judges and classifiers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.rewards.answer_extraction import extracted_answer
from mindspeed_dpo.workers.scorer import PromptColumns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MESSAGES = "messages"
# Characters of a long prompt shown in errors: its start shows the template, its end the question.
_HEAD, _TAIL = 40, 80


@dataclass(frozen=True)
class PromptText:
    """The text of one prompt and its K responses.

    Example:
        PromptText(
            row=7,
            prompt="<|user|>2 + 2?<|assistant|>",
            completions=("4", "5"),
            completion_ids=([19, 2], [20, 2]),
            columns={"messages": [{"role": "user", "content": "2 + 2?"}]},
        )

    Attributes:
        row: Dataset row of the prompt.
        prompt: The text that the policy continued, special tokens of the template included.
        completions: [K] texts of the responses, or of the marked answers in them, without special and stop tokens.
        completion_ids: [K] token ids of the complete responses, stop token included.
        columns: The prompt's values by column: `messages`, and the additional keys.
    """

    row: int
    prompt: str
    completions: tuple[str, ...]
    completion_ids: tuple[list[int], ...]
    columns: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the short form in which errors name the prompt."""
        text = self.prompt
        short = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} … {text[-_TAIL:]}"
        return f"prompt {short!r} (dataset row {self.row})"


class TextReader:
    """Decodes rollouts with the policy's tokenizer and adds the columns of their prompts."""

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
        """Decode P prompts with their responses, in order.

        Raises:
            ValueError: The dataset lacks a column.
        """
        columns = self._columns(rollouts)
        prompts, responses = rollouts.samples.prompts(), rollouts.samples.responses()
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
        # A template's stop word may not be a special token of the tokenizer.
        text = self._decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        return extracted_answer(text) if self._extract else text

    def _decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        # Clean-up would remove spaces that the policy generated.
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def _columns(self, rollouts: RolloutBatch) -> dict[str, Sequence[Any]]:
        columns = self._dataset.columns(rollouts.rows.numpy())
        absent = [name for name in self._names if name not in columns and name != MESSAGES]
        if absent:
            raise ValueError(
                f"dataset_additional_keys names {absent[0]}, but the prompt set has only the columns "
                f"{', '.join(columns)}; preprocess it with dataset_additional_keys: [{', '.join(absent)}]"
            )
        return {name: columns[name] for name in self._names if name in columns}
