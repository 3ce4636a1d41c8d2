"""Converts rollouts to the tokens of a reward model: the policy's own, or the text tokenised again.

`reward_tokenizer` decides which of the two a run needs; `reward_model_scorer` scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.data.tokenization.dialogue_parsing import OPENAI_TAGS, make_prompt, read_turns
from mindspeed_dpo.data.tokenization.encoders import Encoder
from mindspeed_dpo.data.tokenization.examples import REASONS, PairExample, Prompt, RowDropped
from mindspeed_dpo.workers.rewards.answer_extraction import extracted_answer
from mindspeed_dpo.workers.rewards.detokenization import MESSAGES, PromptText, TextReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]


@dataclass(frozen=True)
class ConvertedRollouts:
    """Rollouts in the tokens of a reward model.

    Attributes:
        batch: The prompts that could be converted, with all their responses; None if there are none.
        positions: Position of each of them among the rollouts.
        failures: Position of each other prompt -> an error message that names the prompt.
    """

    batch: PreferenceBatch | None
    positions: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)


class TokenConverter(Protocol):
    """A conversion of rollouts to the tokens of a reward model."""

    def convert(self, rollouts: RolloutBatch) -> ConvertedRollouts:
        """Convert the rollouts of at least one prompt."""


class SameTokenizer:
    """Keeps the policy's tokens, for a reward model with the same vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Keep the tokens.

        Args:
            tokenizer: The policy's tokenizer, to score only the marked answer within each response; None to score all.
        """
        self._tokenizer = tokenizer

    def convert(self, rollouts: RolloutBatch) -> ConvertedRollouts:
        """Return the rollouts' own tokens, or those of the marked answers."""
        batch = rollouts.samples
        if self._tokenizer is not None:
            ended = rollouts.ended.tolist()
            responses = [
                [self._answer(ids.tolist(), ends) for ids, ends in zip(*row, strict=True)]
                for row in zip(batch.responses(), ended, strict=True)
            ]
            batch = PreferenceBatch.from_lists([ids.tolist() for ids in batch.prompts()], responses)
        return ConvertedRollouts(batch, range(rollouts.num_prompts))

    def _answer(self, ids: Ids, ended: bool) -> Ids:
        """Return the tokens of the marked answer and the stop token; all of the response where nothing is marked."""
        assert self._tokenizer is not None
        end = ids[-1:] if ended else []
        text = decoded(self._tokenizer, ids[: len(ids) - len(end)])
        answer = extracted_answer(text)
        return ids if answer == text else [*self._tokenizer.encode(answer, add_special_tokens=False), *end] or ids


class Retokenizer:
    """Tokenises the text of rollouts with the reward model's tokenizer."""

    def __init__(
        self,
        reader: TextReader,
        policy: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Encoder | None,
        *,
        needs_messages: bool = False,
    ) -> None:
        """Tokenise the responses again.

        Args:
            reader: Decodes rollouts to text.
            policy: The policy's tokenizer, for the text of prompts without messages.
            tokenizer: The reward model's tokenizer.
            encoder: The reward model's template, for conversations; None for plain text.
            needs_messages: Whether a dataset without messages is an error rather than tokenised as plain text.
        """
        self._reader = reader
        self._policy = policy
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._needs_messages = needs_messages

    def convert(self, rollouts: RolloutBatch) -> ConvertedRollouts:
        """Tokenise the text of the rollouts, through the template where there is one.

        Raises:
            ValueError: A template is configured and the dataset has no messages.
        """
        prompts, responses, positions, failures = [], [], [], {}
        plain = [decoded(self._policy, ids.tolist()) for ids in rollouts.samples.prompts()]
        for p, text in enumerate(self._reader.read(rollouts)):
            try:
                prompt, endings = shared_prompt(self._sequences(text, plain[p], rollouts.ended[p].tolist()))
            except RowDropped as error:
                failures[p] = f"the reward model's template cannot encode it ({drop_reason(error)}): {text}"
                continue
            positions.append(p)
            prompts.append(prompt)
            responses.append(endings)
        batch = PreferenceBatch.from_lists(prompts, responses) if positions else None
        return ConvertedRollouts(batch, positions, failures)

    def _sequences(self, text: PromptText, plain: str, ended: Sequence[bool]) -> list[tuple[Ids, Ids]]:
        """Return for each response the tokens of its prompt, and of prompt and response together."""
        encoder = self._encoder
        if encoder is not None and (prompt := conversation(text)) is not None:
            pairs = [encoder.pair(PairExample.of_texts(prompt, response, response)) for response in text.completions]
            return [(pair.prompt, pair.prompt + pair.chosen) for pair in pairs]
        if self._needs_messages:
            raise ValueError(
                "reward_prompt_type needs the messages of the prompts, which the dataset does not have; preprocess "
                "it again with this version, or remove reward_prompt_type to score plain text"
            )
        start = self._tokenizer.encode(plain)
        complete = [self._ended(self._tokenizer.encode(plain + response), ends)
                  for response, ends in zip(text.completions, ended, strict=True)]  # fmt: skip
        return [(start, sequence) for sequence in complete]

    def _ended(self, ids: Ids, ended: bool) -> Ids:
        end = self._tokenizer.eos_token_id
        return [*ids, end] if ended and end is not None and ids[-1:] != [end] else ids


def conversation(text: PromptText) -> Prompt | None:
    """Return the prompt's messages as turns; None where the dataset has none.

    Raises:
        RowDropped: They are not a conversation that an assistant could continue.
    """
    messages: Any = text.columns.get(MESSAGES)
    return None if messages is None else make_prompt(read_turns(messages, OPENAI_TAGS, MESSAGES))


def shared_prompt(sequences: Sequence[tuple[Ids, Ids]]) -> tuple[Ids, list[Ids]]:
    """Split K sequences into the prefix they share within their prompt, and their rests of at least one token each.

    A prompt's last tokens may merge with a response, and a template may encode a prompt depending on the response. So
    the split is where the sequences diverge, and each sequence is the same as it would be alone.

    Args:
        sequences: For each response the token ids of its prompt, and of prompt and response together.

    Raises:
        RowDropped: They share no token.
    """
    complete = [sequence for _, sequence in sequences]
    columns = zip(*complete, *(prompt for prompt, _ in sequences), strict=False)
    common = [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
    cut = min(len(common), min(map(len, complete)) - 1)
    if cut < 1:
        raise RowDropped("empty_prompt", "the responses have no prompt in common")
    return common[:cut], [sequence[cut:] for sequence in complete]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
    """Decode token ids to text without special tokens, spaces unchanged."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def drop_reason(error: RowDropped) -> str:
    """Return why a conversation cannot be encoded."""
    return error.detail or REASONS[error.reason]
