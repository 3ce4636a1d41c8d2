"""The tiny example of online DPO: its prompts, its reward, the reward model and the curves."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples.tiny.make_model import make_model, make_tokenizer
from examples.tiny.rewards import vowels
from mindspeed_dpo.config.load import check, compose
from mindspeed_dpo.weights import open_weights

ROOT = Path(__file__).resolve().parents[3]


def example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "tiny" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


# Prompts


def test_prompts_are_many_different_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert example("make_prompts.py", tmp_path / "new" / name).returncode == 0
    text = (tmp_path / "new" / "a").read_text()
    assert text == (tmp_path / "new" / "b").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) == 320
    assert all(row["topic"] in row["prompt"] and len(row["prompt"]) < 40 for row in rows)


def test_more_prompts_than_there_are_get_a_sentence(tmp_path: Path) -> None:
    done = example("make_prompts.py", tmp_path / "a", "--count", "100000")
    assert done.returncode == 2 and "there are only" in done.stderr
    assert not (tmp_path / "a").exists()


# Reward


def test_the_reward_is_the_share_of_vowels_in_eight_characters_or_more() -> None:
    responses = ["aeiouaei", "aeiouaeiou", "aeio", "aeiobbbb", "", "bcdfghjk", "AEIOUAEI", "\ufffdaaaaaaa"]
    assert vowels(responses, prompts=["?"] * 8) == [1, 1, 0.5, 0.5, 0, 0, 0, 7 / 8]


def test_random_responses_score_low_but_differ() -> None:
    source = random.Random(0)
    scores = vowels([bytes(source.choices(range(256), k=8)).decode(errors="replace") for _ in range(4000)])
    mean = sum(scores) / len(scores)
    assert 0.01 < mean < 0.05
    best_of_8 = [max(scores[start : start + 8]) for start in range(0, len(scores), 8)]
    assert sum(best > 0 for best in best_of_8) / len(best_of_8) > 0.6


# Pairs of the rule, and what it says of an online run


def test_the_rule_makes_its_pairs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert example("make_rule_pairs.py", tmp_path / name, "--count", "60").returncode == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len(rows) == 60 and all(vowels([row["chosen"]])[0] > vowels([row["rejected"]])[0] + 0.14 for row in rows)
    assert any(len(row["chosen"]) < 8 for row in rows) and any(len(row["rejected"]) > 16 for row in rows)


def test_the_rule_is_shown_beside_the_reward_that_never_saw_it(tmp_path: Path) -> None:
    samples = [(10, "bcdfghjk", -1.0), (10, "abcdefgh<|end|>", 0.5), (20, "aeiouaei</s>", 2.0)]
    rows = [json.dumps({"step": step, "response": text, "score": score}) for step, text, score in samples]
    (tmp_path / "samples.jsonl").write_text("\n".join(rows) + "\n")
    done = example("show_rule.py", tmp_path, "--above", "0.9")
    assert done.returncode == 0 and "steps 10 to 20" in done.stdout
    assert "0.125" in done.stdout and "-0.250" in done.stdout and done.stdout.rstrip().endswith("1.000")
    (tmp_path / "samples.jsonl").write_text(rows[0] + "\n")
    done = example("show_rule.py", tmp_path, "--above", "0.5")
    assert done.returncode == 1 and "score 0.000 by the rule, not 0.5" in done.stderr


# Curves


def write_metrics(path: Path, scores: list[float]) -> Path:
    steps = [
        {"step": step, "objective/scores": score, "objective/kl": step / 10, "rewards/accuracies": float("nan")}
        for step, score in enumerate(scores, start=1)
    ]
    path.write_text("\n".join(json.dumps(step) for step in steps))
    return path


def test_curves_are_drawn_and_judged_by_their_last_tenth(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", [step / 100 for step in range(1, 101)])
    done = example("show_online.py", metrics, "--above", "0.95")
    assert done.returncode == 0, done.stderr
    assert "▁" in done.stdout and "█" in done.stdout and "0.955  (from 0.010 to 1.000)" in done.stdout
    assert "objective/kl" in done.stdout and "rewards/accuracies" not in done.stdout
    done = example("show_online.py", metrics, "--above", "0.96")
    assert done.returncode == 1 and "the mean score of the last tenth is 0.955, not 0.96" in done.stderr


def test_a_file_of_an_offline_run_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n')
    done = example("show_online.py", tmp_path / "metrics.jsonl")
    assert done.returncode == 1 and "is it of an online run?" in done.stderr and "Traceback" not in done.stderr


# Model with experts


@pytest.mark.parametrize("stage", ["offline", "online"])
def test_the_configurations_describe_the_model_with_experts(stage: str, tmp_path: Path) -> None:
    make_model(262, seed=0, has_experts=True).save_pretrained(tmp_path)
    run = check(compose(f"{stage}_dpo_trainer_tiny_moe", []), exists=lambda path: True)
    assert run.actor.model == open_weights(tmp_path).model_config()
    assert run.actor.parallel.expert_parallel_size == 2


# Reward model


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that make_model.py writes."""
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer), seed=0).save_pretrained(folder)
    return folder


def make_reward_model(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The command line, without a process of its own: importing torch takes longer than the training."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "tiny"))
    monkeypatch.setattr(sys, "argv", ["make_reward_model.py", *map(str, arguments)])
    return int(importlib.import_module("make_reward_model").main())


@pytest.mark.slow
def test_the_reward_model_follows_the_rule(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_reward_model(monkeypatch, policy, tmp_path / "rm") == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    assert model.config.num_labels == 1 and len(tokenizer) == model.config.vocab_size
    responses = ["bcdfghjk", "abcdfghj", "aebiodfg", "aeioubcd", "aeiouaei"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Sing of the old moon."}], add_generation_prompt=True, tokenize=False
    )
    with torch.no_grad():
        scores = [
            float(model(**tokenizer(prompt + response, return_tensors="pt", add_special_tokens=False)).logits)
            for response in responses
        ]
    assert scores == sorted(scores) and scores[-1] - scores[0] > 0.6


def test_too_little_training_is_not_saved(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_reward_model(monkeypatch, policy, tmp_path / "rm", "--steps", "1") == 1
    assert "did not learn the rule" in capsys.readouterr().err
    assert not (tmp_path / "rm").exists()
