"""Scores by a judge model, a language model that writes what it thinks of responses and ends with a verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.workers.rewards.detokenization import PromptText, TextReader
from mindspeed_dpo.workers.rewards.judge_engine import Judge, JudgeText
from mindspeed_dpo.workers.rewards.judge_questions import JudgeQuestions
from mindspeed_dpo.workers.rewards.judge_verdicts import UnparsedVerdictError, VerdictParser
from mindspeed_dpo.workers.rewards.retokenization import decoded, drop_reason
from mindspeed_dpo.workers.scorer import Scored, Verdicts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Question:
    """One question: position of its prompt, indices of the responses that it shows, and its tokens."""

    position: int
    shown: tuple[int, ...]
    ids: list[int]


class JudgeModelScorer:
    """Scores a response by the mean of what verdicts give it.

    With `judge_mode` score there is one verdict for each response. With pairwise every two responses are compared in
    both orders, so a judge model that prefers a position gives both of them one half.
    """

    def __init__(
        self,
        judge: Judge,
        questions: JudgeQuestions,
        parser: VerdictParser,
        reader: TextReader,
        policy: PreTrainedTokenizerBase,
        *,
        unparsed_score: float | None,
        seed: int,
    ) -> None:
        """Score by a judge model.

        Args:
            judge: Writes its texts.
            questions: Writes the questions.
            parser: Finds the verdicts.
            reader: Decodes rollouts to text.
            policy: The policy's tokenizer, for the text of prompts without messages.
            unparsed_score: What a text without a verdict gives each response; None leaves its prompt without scores.
            seed: Seed of the run, from which those of the texts follow.
        """
        self._judge, self._questions, self._parser = judge, questions, parser
        self._reader, self._policy = reader, policy
        self._unparsed_score = np.nan if unparsed_score is None else unparsed_score
        self._seed = seed

    def score(self, rollouts: RolloutBatch) -> Scored:
        """Return scores [P, K]: NaN where a question is too long, or has no verdict and `unparsed_score` is None."""
        prompts = self._reader.read(rollouts)
        failures: dict[int, str] = {}
        questions: list[_Question] = []
        for position, (prompt, ids) in enumerate(zip(prompts, rollouts.samples.prompts(), strict=True)):
            try:
                questions += self._ask(position, prompt, decoded(self._policy, ids.tolist()), rollouts.num_responses)
            except RowDropped as error:
                failures[position] = f"judge_model cannot be asked ({drop_reason(error)}): {prompt}"
        seeds = [self._seed_of(rollouts.version, prompts[one.position].row, one.shown) for one in questions]
        texts = self._judge.write([question.ids for question in questions], seeds) if questions else []
        return self._scored((len(prompts), rollouts.num_responses), prompts, failures, questions, texts)

    def check_alive(self) -> None:
        """Check that the judge model's process has not ended."""
        self._judge.check_alive()

    def _ask(self, position: int, prompt: PromptText, text: str, k: int) -> list[_Question]:
        """Return all questions about a prompt's K responses: each, or every two in both orders."""
        shown = permutations(range(k), self._questions.num_shown)
        return [_Question(position, one, self._questions.ids(prompt, text, one)) for one in shown]

    def _scored(
        self,
        shape: tuple[int, int],
        prompts: Sequence[PromptText],
        failures: dict[int, str],
        questions: Sequence[_Question],
        texts: Sequence[JudgeText],
    ) -> Scored:
        sums, counts = np.zeros(shape), np.zeros(shape)
        unparsed: list[str] = []
        for question, text in zip(questions, texts, strict=True):
            try:
                points = self._parser.points(text.text)
            except UnparsedVerdictError as error:
                unparsed.append(str(error))
                points = (self._unparsed_score,) * len(question.shown)
                if np.isnan(self._unparsed_score):
                    of = f"{_named(question.shown)} to {prompts[question.position]}"
                    failures.setdefault(question.position, f"judge_model gave no verdict on {of}: {error}")
            sums[question.position, question.shown] += points
            counts[question.position, question.shown] += 1
        num_cut = sum(not text.is_complete for text in texts)
        scores = (sums / np.maximum(counts, 1)).astype(np.float32)
        scores[list(failures)] = np.nan
        return Scored(scores, failures, Verdicts(len(texts), len(unparsed), num_cut, next(iter(unparsed), "")))

    def _seed_of(self, version: int, row: int, shown: tuple[int, ...]) -> int:
        """Return the seed of a text, which does not depend on how prompts are split over processes."""
        words = f"judge/{self._seed}/{version}/{row}/{shown}"
        # vLLM takes 64 bits with a sign.
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


def _named(shown: tuple[int, ...]) -> str:
    return f"response{'s' if len(shown) > 1 else ''} {' and '.join(map(str, shown))}"
