"""Rollouts in the tokens a reward model reads: the policy's as they are, or the text tokenised anew.

Which of the two a run needs is decided in `tokenizers`; scoring is left to `model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.data.tokenization.conversation import OPENAI_TAGS, make_prompt, read_turns
from mindspeed_dpo.data.tokenization.encoders import Encoder
from mindspeed_dpo.data.tokenization.examples import REASONS, PairExample, Prompt, RowDropped
from mindspeed_dpo.workers.rewards.decoding import MESSAGES, PromptText, TextReader, extracted_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]


@dataclass(frozen=True)
class Written:
    """Rollouts as a reward model reads them.

    Attributes:
        batch: The prompts that could be written, with all their responses; None where there is none.
        positions: Place of each of them among the rollouts.
        failures: Place of each of the others -> why, in a sentence that names the prompt.
    """

    batch: PreferenceBatch | None
    positions: Sequence[int]
    failures: Mapping[int, str] = field(default_factory=dict)


class Writer(Protocol):
    """Whatever gives rollouts the tokens of a reward model."""

    def write(self, rollouts: RolloutBatch) -> Written:
        """The rollouts, at least one, as a reward model reads them."""


class SameTokens:
    """The policy's tokens, for a reward model with the same vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Use tokens as they are.

        Args:
            tokenizer: The policy's, to score only the marked answer within each response; None scores it whole.
        """
        self._tokenizer = tokenizer

    def write(self, rollouts: RolloutBatch) -> Written:
        """See `Writer`."""
        batch = rollouts.answers
        if self._tokenizer is not None:
            ended = rollouts.ended.tolist()
            responses = [
                [self._answer(ids.tolist(), ends) for ids, ends in zip(*row, strict=True)]
                for row in zip(batch.responses(), ended, strict=True)
            ]
            batch = PreferenceBatch.from_lists([ids.tolist() for ids in batch.prompts()], responses)
        return Written(batch, range(rollouts.num_prompts))

    def _answer(self, ids: Ids, ended: bool) -> Ids:
        """The tokens of the marked answer, with the stop token of the response; all of it where nothing is marked."""
        assert self._tokenizer is not None
        end = ids[-1:] if ended else []
        text = decoded(self._tokenizer, ids[: len(ids) - len(end)])
        answer = extracted_answer(text)
        return ids if answer == text else [*self._tokenizer.encode(answer, add_special_tokens=False), *end] or ids


class NewTokens:
    """The text of rollouts in the tokens of the reward model's tokenizer."""

    def __init__(
        self,
        reader: TextReader,
        policy: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Encoder | None,
        *,
        needs_messages: bool = False,
    ) -> None:
        """Tokenise anew.

        Args:
            reader: Makes text of rollouts.
            policy: The policy's tokenizer, for the text of prompts without messages.
            tokenizer: The reward model's.
            encoder: The reward model's template, for conversations; None writes plain text always.
            needs_messages: Whether a prompt set without messages is refused rather than written as plain text.
        """
        self._reader = reader
        self._policy = policy
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._needs_messages = needs_messages

    def write(self, rollouts: RolloutBatch) -> Written:
        """See `Writer`.

        Raises:
            ValueError: A template was asked for and the prompt set has no messages.
        """
        prompts, responses, positions, failures = [], [], [], {}
        plain = [decoded(self._policy, ids.tolist()) for ids in rollouts.answers.prompts()]
        for p, text in enumerate(self._reader.read(rollouts)):
            try:
                prompt, endings = shared_prompt(self._sequences(text, plain[p], rollouts.ended[p].tolist()))
            except RowDropped as error:
                failures[p] = f"the reward model's template cannot write it ({reason(error)}): {text}"
                continue
            positions.append(p)
            prompts.append(prompt)
            responses.append(endings)
        batch = PreferenceBatch.from_lists(prompts, responses) if positions else None
        return Written(batch, positions, failures)

    def _sequences(self, text: PromptText, plain: str, ended: Sequence[bool]) -> list[tuple[Ids, Ids]]:
        """The prompt as each response continues it, and the whole of prompt and response."""
        encoder = self._encoder
        if encoder is not None and (prompt := conversation(text)) is not None:
            pairs = [encoder.pair(PairExample(prompt, answer, answer)) for answer in text.completions]
            return [(pair.prompt, pair.prompt + pair.chosen) for pair in pairs]
        if self._needs_messages:
            raise ValueError(
                "reward_prompt_type needs the messages of the prompts, which the prompt set does not have; preprocess "
                "it again with this version, or leave reward_prompt_type out to score plain text"
            )
        start = self._tokenizer.encode(plain)
        wholes = [self._ended(self._tokenizer.encode(plain + answer), ends)
                  for answer, ends in zip(text.completions, ended, strict=True)]  # fmt: skip
        return [(start, whole) for whole in wholes]

    def _ended(self, ids: Ids, ended: bool) -> Ids:
        end = self._tokenizer.eos_token_id
        return [*ids, end] if ended and end is not None and ids[-1:] != [end] else ids


def conversation(text: PromptText) -> Prompt | None:
    """The prompt's messages as turns; None where the prompt set has none.

    Raises:
        RowDropped: They are no conversation that an assistant could answer.
    """
    messages: Any = text.columns.get(MESSAGES)
    return None if messages is None else make_prompt(read_turns(messages, OPENAI_TAGS, MESSAGES))


def shared_prompt(sequences: Sequence[tuple[Ids, Ids]]) -> tuple[Ids, list[Ids]]:
    """What K sequences have in common up to the end of their prompt, and how each goes on, by at least one token.

    A prompt's last tokens may merge with a response, and a template may write a prompt by what is answered; so the
    cut lies where the sequences part, and each is the same as it would be alone.

    Raises:
        RowDropped: They have no token in common.
    """
    wholes = [whole for _, whole in sequences]
    columns = zip(*wholes, *(prompt for prompt, _ in sequences), strict=False)
    common = [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
    cut = min(len(common), min(map(len, wholes)) - 1)
    if cut < 1:
        raise RowDropped("empty_prompt", "nothing stands before the responses")
    return common[:cut], [whole[cut:] for whole in wholes]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
    """Text without special tokens, spaces as they are."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def reason(error: RowDropped) -> str:
    """Why something cannot be written."""
    return error.detail or REASONS[error.reason]
