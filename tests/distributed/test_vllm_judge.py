"""A judge model in vLLM itself: scores are those that its texts contain, and the texts are those of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.workers.rewards.judge_engine import JudgeEngine, judge_sampling, start_judge_process
from mindspeed_dpo.workers.rewards.judge_files import open_judge_files
from mindspeed_dpo.workers.rewards.judge_model_scorer import JudgeModelScorer
from mindspeed_dpo.workers.rewards.judge_model_setup import check_judge_model
from mindspeed_dpo.workers.rewards.judge_questions import JudgeQuestions
from mindspeed_dpo.workers.rewards.judge_verdicts import VerdictParser
from tests.support.tokenizers import save_chat_tokenizer
from tests.support.vllm_python import NEEDS_VLLM, vllm_python
from tests.unit.workers.rewards.sample_rollouts import reader, rollouts, tokenizer

pytestmark = [pytest.mark.distributed, pytest.mark.slow, NEEDS_VLLM]

BATCH = rollouts([("p", ["a short one", "another", "x"]), ("p", ["sixteen letters.", "7", "the third of them"])])
NEW_TOKENS, DIGITS, LETTERS = 8, "0123456789", "ABC"


def save_judge(folder: Path) -> Path:
    """Save a random model that writes digits and the letters A to C; which of them depends on all of its input.

    Their rows of the output layer are longer than the others, so the largest logit is that of one of them.
    """
    save_chat_tokenizer(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer()), "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
        "initializer_range": 0.3, "eos_token_id": tokenizer().eos_token_id, "bos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight[tokenizer().convert_tokens_to_ids([*DIGITS, *LETTERS])] *= 10
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RewardConfig:
    folder = tmp_path_factory.mktemp("judge")
    engine = {"python": str(vllm_python(folder)), "enforce_eager": True, "dtype": "float32", "timeout_s": 600}
    return RewardConfig(
        judge_model=str(save_judge(folder / "judge")),
        judge_template="{prompt}: {response}",
        judge_verdict=f"([{DIGITS}])",
        judge_score_range=(0.0, 9.0),
        judge_max_new_tokens=NEW_TOKENS,
        judge_unparsed_score=0.0,
        judge_vllm=engine,
    )


@pytest.fixture(scope="module")
def engine(settings: RewardConfig) -> Iterator[JudgeEngine]:
    files = open_judge_files(settings)
    folder = Path(str(settings.judge_model)).parent
    process = start_judge_process(settings, folder / "judge.log", {"VLLM_CPU_KVCACHE_SPACE": "1"})
    yield JudgeEngine(process, files.tokenizer, judge_sampling(settings, files.stop_ids))
    process.close()


def scores(engine: JudgeEngine, settings: RewardConfig) -> list[list[float]]:
    scorer = JudgeModelScorer(
        engine, JudgeQuestions(tokenizer(), settings), VerdictParser(settings), reader(), tokenizer(),
        unparsed_score=settings.judge_unparsed_score, seed=1,
    )  # fmt: skip
    scored = scorer.score(BATCH)
    assert not scored.failures
    values: list[list[float]] = scored.scores.tolist()
    return values


@cache
def loaded(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def greedy_text(settings: RewardConfig, question: str) -> str:
    """The text that transformers generates for a question, in the judge's chat template."""
    model = loaded(str(settings.judge_model))
    ids = tokenizer().encode(f"<s><|user|>{question}<|end|><|assistant|>", add_special_tokens=False)
    generated = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False)
    return str(tokenizer().decode(generated[0, len(ids) :], skip_special_tokens=True))


def responses() -> list[list[str]]:
    return [[tokenizer().decode(ids.tolist()) for ids in row] for row in BATCH.samples.responses()]


def test_a_score_is_the_last_digit_of_what_transformers_generates(engine: JudgeEngine, settings: RewardConfig) -> None:
    expected = []
    for row, texts in enumerate(responses()):
        generated = [greedy_text(settings, f"question {row}: {text}") for text in texts]
        expected.append([float(([*filter(str.isdigit, text)] or ["0"])[-1]) for text in generated])
    assert scores(engine, settings) == expected
    assert len({score for row in expected for score in row}) > 2


def test_comparisons_are_those_of_what_transformers_generates(engine: JudgeEngine, settings: RewardConfig) -> None:
    pairwise = replace(
        settings, judge_mode="pairwise", judge_template="{prompt}: {response_a} / {response_b}",
        judge_verdict=f"([{LETTERS}])", judge_unparsed_score=0.5,
    )  # fmt: skip
    expected = []
    for row, texts in enumerate(responses()):
        wins = [0.0] * len(texts)
        for first in range(3):
            for second in {0, 1, 2} - {first}:
                text = greedy_text(settings, f"question {row}: {texts[first]} / {texts[second]}")
                last = ([letter for letter in text if letter in LETTERS] or ["C"])[-1]
                wins[first] += {"A": 1, "B": 0, "C": 0.5}[last]
                wins[second] += {"A": 0, "B": 1, "C": 0.5}[last]
        expected.append([won / 4 for won in wins])
    assert scores(engine, pairwise) == expected
    assert len({score for row in expected for score in row}) > 2


def test_vllm_itself_knows_the_model_and_the_arguments(settings: RewardConfig) -> None:
    found = check_judge_model(SimpleNamespace(reward=settings))  # type: ignore[arg-type]
    assert found.platform == "cpu" and not found.problems
