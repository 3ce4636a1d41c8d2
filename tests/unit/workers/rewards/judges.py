"""A judge model for tests that starts no process: it answers questions with texts of the test's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.workers.rewards.judge_engine import JudgeText
from mindspeed_dpo.workers.rewards.judge_model_scorer import JudgeModelScorer
from mindspeed_dpo.workers.rewards.judge_questions import JudgeQuestions
from mindspeed_dpo.workers.rewards.judge_verdicts import VerdictParser
from tests.unit.workers.rewards.sample_rollouts import reader, tokenizer

TEMPLATE = "{prompt}|{response}|"
PAIRWISE_TEMPLATE = "{prompt}|{response_a}|{response_b}|"


class FakeJudge:
    """Writes what `opinion` says of each question's text, and notes the requests.

    Attributes:
        requests: The texts of the questions of each request.
        seeds: The seeds of each request.
    """

    def __init__(self, opinion: Callable[[str], str]) -> None:
        self._opinion = opinion
        self.requests: list[list[str]] = []
        self.seeds: list[list[int]] = []

    def write(self, questions: Sequence[list[int]], seeds: Sequence[int]) -> list[JudgeText]:
        texts = [tokenizer().decode(ids, skip_special_tokens=True) for ids in questions]
        self.requests.append(texts)
        self.seeds.append(list(seeds))
        opinions = [self._opinion(text) for text in texts]
        return [JudgeText(opinion, is_complete=not opinion.endswith("…")) for opinion in opinions]

    def check_alive(self) -> None:
        pass


def settings_of(mode: str = "score", **keys: Any) -> RewardConfig:
    template = TEMPLATE if mode == "score" else PAIRWISE_TEMPLATE
    return RewardConfig(**{"judge_model": "judge", "judge_mode": mode, "judge_template": template, **keys})


def scorer(judge: FakeJudge, settings: RewardConfig, max_length: int | None = None) -> JudgeModelScorer:
    questions = JudgeQuestions(tokenizer(), settings, max_length)
    return JudgeModelScorer(
        judge, questions, VerdictParser(settings), reader(), tokenizer(),
        unparsed_score=settings.judge_unparsed_score, seed=5,
    )  # fmt: skip
