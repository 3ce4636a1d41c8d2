"""A reward model as scorer: equal to Hugging Face on the tokens it should read, under every layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mindspeed_dpo.weights import ParallelLayout, WeightsError
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights
from tests.support.reward_models import hf_scores
from tests.support.tiny_models import save_tiny_model
from tests.unit.workers.rewards.reward_runs import (
    NoColumns,
    OddMessages,
    assert_scores,
    question,
    reward_folder,
    reward_run,
    score,
    silent,
)
from tests.unit.workers.rewards.sample_rollouts import rollouts, tokenizer

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = [4, 0, 5]
CONVERSATIONS = [
    ("<|user|>what is 4?<|end|><|assistant|>", ["a number<|end|>", "<answer>this is a b</answer> or so<|end|>"]),
    ("<|user|>is it?<|end|><|assistant|>", ["it is", "nothing<|end|>"]),
    ("<|user|>5<|end|><|assistant|>", ["abab<|end|>", "x"]),
]
BATCH = rollouts(CONVERSATIONS, rows=ROWS)
Encode = Callable[[int, str, str, bool], list[int]]


@cache
def hugging_face(folder: Path) -> tuple:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    has_tokenizer = (folder / "tokenizer.json").is_file()
    return model, AutoTokenizer.from_pretrained(folder) if has_tokenizer else None


def expected(folder: Path, encode: Encode) -> np.ndarray:
    """Scores [3, 2] of the tokens that `encode(row, prompt, response without end, ended)` gives."""
    sequences = [
        encode(row, prompt, response.removesuffix("<|end|>"), response.endswith("<|end|>"))
        for row, (prompt, responses) in zip(ROWS, CONVERSATIONS, strict=True)
        for response in responses
    ]
    scores = hf_scores(hugging_face(folder)[0], sequences).view(3, 2).numpy()
    assert len(np.unique(scores)) == 6
    return scores


def as_sampled(row: int, prompt: str, response: str, ended: bool) -> list[int]:
    return tokenizer().encode(prompt + response + "<|end|>" * ended, add_special_tokens=False)


def as_conversation(folder: Path) -> Encode:
    own = hugging_face(folder)[1]

    def encode(row: int, prompt: str, response: str, ended: bool) -> list[int]:
        messages = [*question(row), {"role": "assistant", "content": response}]
        return own.encode(own.apply_chat_template(messages, tokenize=False), add_special_tokens=False)

    return encode


def as_plain_text(folder: Path) -> Encode:
    own = hugging_face(folder)[1]

    def encode(row: int, prompt: str, response: str, ended: bool) -> list[int]:
        text = tokenizer().decode(tokenizer().encode(prompt, add_special_tokens=False), skip_special_tokens=True)
        return own.encode(text + response) + [own.eos_token_id] * ended

    return encode


@pytest.mark.parametrize(
    ("processes", "how"),
    [
        (1, {}),
        (1, {"micro_batch_size": 1, "share_prompt": False}),
        (2, {"layout": (2, 1), "sequence_parallel": True}),
        (2, {"layout": (1, 2), "micro_batch_size": 1}),
        (2, {"layout": (1, 2), "micro_batch_size": None, "micro_batch_tokens": 40, "pad_to_multiple_of": 8}),
        (2, {}),
        (2, {"cp": 2}),
        (4, {}),
    ],
    ids=[
        "one process",
        "prompts repeated",
        "TP2",
        "PP2",
        "token budgets under PP2",
        "DP2",
        "CP2",
        "more replicas than prompts",
    ],
)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_policys_tokens_are_scored_as_hugging_face_scores_them(name: str, processes: int, how: dict) -> None:
    folder = reward_folder(name)
    assert_scores(score(reward_run(folder, **how), BATCH, processes), expected(folder, as_sampled))


@pytest.mark.parametrize(
    ("processes", "how"), [(2, {"layout": (2, 1), "sequence_parallel": True}), (4, {"micro_batch_size": 1})]
)
def test_a_reward_model_shares_its_experts(processes: int, how: dict) -> None:
    """With four replicas one has no prompts, and takes part in the passes of the others."""
    folder = reward_folder("qwen3_moe")
    assert_scores(score(reward_run(folder, ep=2, **how), BATCH, processes), expected(folder, as_sampled))


def test_a_dense_reward_model_does_not_meet_those_who_share_experts() -> None:
    """In the processes of an actor whose experts two replicas share; one of four replicas has no prompts."""
    folder = reward_folder("llama")
    assert_scores(score(reward_run(folder, ep=2, micro_batch_size=1), BATCH, 4), expected(folder, as_sampled))


def test_a_converted_reward_model_scores_the_same_with_the_tokenizer_it_carries(tmp_path: Path) -> None:
    convert(ConversionRequest(reward_folder(), tmp_path, layout=ParallelLayout(2, 1), reward_model=True))
    assert_scores(score(reward_run(tmp_path), BATCH), expected(reward_folder(), as_sampled))


def test_one_process_of_a_replica_speaks() -> None:
    assert silent(reward_run(reward_folder(), (1, 2)), BATCH, 2) == [True, False]


@pytest.mark.parametrize("layout", [(1, 1), (2, 1), (1, 2)], ids=["one process", "TP2", "PP2"])
def test_another_tokenizer_reads_the_conversation_through_its_own_template(layout: tuple[int, int]) -> None:
    folder = reward_folder("llama", "chat")
    run = reward_run(folder, layout, reward_tokenizer=str(folder))
    assert_scores(score(run, BATCH, layout[0] * layout[1]), expected(folder, as_conversation(folder)))


def test_without_a_template_or_messages_the_text_is_read_as_it_is() -> None:
    plain, chat = reward_folder("llama", "plain"), reward_folder("llama", "chat")
    run = reward_run(plain, reward_tokenizer=str(plain))
    assert_scores(score(run, BATCH), expected(plain, as_plain_text(plain)))
    run = reward_run(chat, reward_tokenizer=str(chat))
    assert_scores(score(run, BATCH, prompts=NoColumns), expected(chat, as_plain_text(chat)))


def test_a_template_makes_the_policys_tokenizer_tokenize_the_conversation_again() -> None:
    folder = reward_folder()
    run = reward_run(folder, reward_prompt_type="chat_template")
    scores = expected(folder, as_conversation(folder))
    assert_scores(score(run, BATCH), scores)
    assert not np.allclose(scores, expected(folder, as_sampled))


def test_a_named_template_is_used_instead_of_the_tokenizers() -> None:
    folder = reward_folder("llama", "chat")
    own = hugging_face(folder)[1]

    def alpaca(row: int, prompt: str, response: str, ended: bool) -> list[int]:
        pieces = ["be brief", f"### Instruction:\nwhat is {row}?\n\n### Response:\n", response]
        return [token for piece in pieces for token in own.encode(piece, add_special_tokens=False)] + [own.eos_token_id]

    run = reward_run(folder, reward_tokenizer=str(folder), reward_prompt_type="alpaca")
    assert_scores(score(run, BATCH), expected(folder, alpaca))


def test_a_conversation_that_cannot_be_written_is_left_out_and_named() -> None:
    folder = reward_folder("llama", "chat")
    run = reward_run(folder, reward_tokenizer=str(folder), micro_batch_size=1)
    scored = score(run, BATCH, prompts=OddMessages)
    np.testing.assert_allclose(scored.scores[:2], expected(folder, as_conversation(folder))[:2], rtol=1e-4, atol=1e-4)
    assert np.isnan(scored.scores[2]).all()
    assert list(scored.failures) == [2] and "no response to generate" in scored.failures[2]
    assert "(dataset row 5)" in scored.failures[2]


def test_a_batch_of_which_nothing_can_be_written_is_no_error() -> None:
    folder = reward_folder("llama", "chat")
    run = reward_run(folder, (1, 2), reward_tokenizer=str(folder))
    scored = score(run, BATCH.select([2]), 2, prompts=OddMessages)
    assert np.isnan(scored.scores).all() and list(scored.failures) == [0]


def test_only_the_marked_answer_is_scored_where_that_is_configured() -> None:
    folder = reward_folder()
    scores = score(reward_run(folder, extract_content_for_reward=True), BATCH).scores

    def cut(row: int, prompt: str, response: str, ended: bool) -> list[int]:
        return as_sampled(row, prompt, response.removeprefix("<answer>").removesuffix("</answer> or so"), ended)

    np.testing.assert_allclose(scores, expected(folder, cut), rtol=1e-4, atol=1e-4)


def test_without_the_final_norm_scores_differ() -> None:
    folder = reward_folder()
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    model.model.norm = torch.nn.Identity()
    sequences = [
        as_sampled(0, prompt, response, False) for prompt, responses in CONVERSATIONS for response in responses
    ]
    actual = score(reward_run(folder, no_post_layer_norm=True), BATCH)
    assert_scores(actual, hf_scores(model, sequences).view(3, 2).numpy())
    assert not np.allclose(actual.scores, expected(folder, as_sampled), atol=1e-2)


def test_language_models_cannot_score_and_reward_models_cannot_generate(tmp_path: Path) -> None:
    reward = reward_run(reward_folder()).reward
    assert reward is not None and open_initial_weights(reward) is not None
    for name in ("actor", "ref", "rollout"):
        with pytest.raises(WeightsError, match=rf"load of {name}: .* is a reward model, .* set it as load of section"):
            open_initial_weights(replace(reward, name=name, has_score_head=False))
    language = save_tiny_model("llama", tmp_path)
    with pytest.raises(WeightsError, match=r"load of reward: .* is a language model.*convert_ckpt.py --orm"):
        open_initial_weights(replace(reward, checkpoint=replace(reward.checkpoint, load=str(language))))
    # A reward model that is trained starts from either; from a language model without its output layer.
    for load, is_language in ((reward.checkpoint.load, False), (str(language), True)):
        source = open_initial_weights(replace(reward, name="actor", checkpoint=replace(reward.checkpoint, load=load)))
        assert source is not None and source.decoder_only == is_language
