"""Continuous batching: how much is computed, when responses end, what is refused, what a batch holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mindspeed_dpo.rollout.cache_slots import Slots
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator, rollout_batch
from mindspeed_dpo.rollout.kv_cache import BLOCK
from tests.support.tiny_models import save_tiny_model
from tests.unit.rollout.rollout_jobs import PROMPTS, rollout, rollout_model, settings, tensors

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RolloutModel:
    return rollout_model(save_tiny_model("llama", tmp_path_factory.mktemp("model")))


def generator(
    model: RolloutModel, max_new_tokens: int = 10, stop_ids: range = range(0), **changes: object
) -> Generator:
    return Generator(model, settings(**changes), max_new_tokens=max_new_tokens, stop_ids=frozenset(stop_ids), seed=1)


def test_a_prompt_is_read_once_for_all_its_responses(model: RolloutModel) -> None:
    one = generator(model, n_samples_per_prompt=5, rollout_slots=3)
    lengths = []
    prefill = model.prefill
    model.prefill = lambda prompt: (lengths.append(len(prompt)), prefill(prompt))[1]  # type: ignore[method-assign]
    try:
        sampled = one.generate(tensors(PROMPTS), range(6))
    finally:
        del model.prefill  # type: ignore[method-assign]
    assert lengths == [len(prompt) for prompt in PROMPTS]
    assert one.work.prefills == 6
    assert [len(row.responses) for row in sampled] == [5] * 6


@pytest.mark.parametrize("slots", [2, 4, 6])
def test_a_finished_response_frees_its_slot_at_once(slots: int, model: RolloutModel) -> None:
    one = generator(model, max_new_tokens=40, stop_ids=range(8), rollout_slots=slots)
    sampled = one.generate(tensors(PROMPTS * 4), range(24))
    lengths = [len(r) for row in sampled for r in row.responses]
    assert max(lengths) > 2 * sum(lengths) / len(lengths), "lengths do not differ enough to prove anything"
    # The first token of a response needs no decoding pass.
    decoded = sum(lengths) - len(lengths)
    assert one.work.decoded_tokens == decoded
    assert one.work.response_tokens == sum(lengths)
    # Rows are unused only after the last prompt was taken: never longer than the longest response.
    assert one.work.decode_passes <= decoded / 2 + max(lengths) * slots / 2
    # In batches that wait for their longest response there would be many more.
    waiting = sum(max(lengths[i : i + slots]) - 1 for i in range(0, len(lengths), slots)) * slots / 2
    assert one.work.decode_passes < 0.75 * waiting


def test_inactive_tiles_are_skipped_and_responses_gathered(model: RolloutModel) -> None:
    one = generator(model, max_new_tokens=60, stop_ids=range(8), rollout_slots=12)
    sampled = one.generate(tensors(PROMPTS), range(6))
    lengths = [len(r) for row in sampled for r in row.responses]
    # What passes of two rows are needed when k responses are live at a step.
    live = [sum(length - 1 > step for length in lengths) for step in range(max(lengths) - 1)]
    assert one.work.decode_passes == sum(-(-count // 2) for count in live)
    assert one.work.moves > 0


def test_slots_are_gathered_into_the_fullest_tiles() -> None:
    slots: Slots[str] = Slots(11, 4)
    for holder in "abcdefghijk":
        slots.take(holder)
    for slot in (0, 1, 5, 6, 9):
        slots.release(slot)
    # Tiles hold {c, d}, {e, h} and {i, k}; the last has three slots only.
    moves = list(slots.compact())
    assert moves == [(8, 0, "i"), (10, 1, "k")]
    assert slots.tiles() == [0, 1] and list(slots.compact()) == []
    assert slots.in_tile(0) == [(0, "i"), (1, "k"), (2, "c"), (3, "d")]
    assert [slots.take("l"), slots.take("m")] == [5, 6]


def test_a_response_keeps_its_stop_token(model: RolloutModel) -> None:
    batch = rollout(model, stop_ids=frozenset(range(4)), max_new_tokens=25)
    for p, row in enumerate(batch.samples.responses()):
        for k, response in enumerate(row):
            stops = (response < 4).nonzero()[:, 0].tolist()
            assert stops == ([len(response) - 1] if batch.ended[p, k] else [])
            assert batch.ended[p, k] or len(response) == 25
    assert batch.ended.any() and not batch.ended.all()


def test_a_stop_token_at_the_limit_ends_a_response(model: RolloutModel) -> None:
    batch = rollout(model, stop_ids=frozenset(range(93)), max_new_tokens=1)
    assert batch.ended.all() and (batch.samples.response_lengths == 1).all()


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_responses_reach_their_limit_and_no_more(limit: int, model: RolloutModel) -> None:
    batch = rollout(model, max_new_tokens=limit, stop_ids=frozenset())
    assert (batch.samples.response_lengths == limit).all() and not batch.ended.any()


@pytest.mark.parametrize("length", [BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1])
def test_the_cache_is_right_at_the_edges_of_its_blocks(length: int, model: RolloutModel) -> None:
    prompt = [(7 * place) % 93 for place in range(length)]
    batch = rollout(model, [prompt], max_new_tokens=4, stop_ids=frozenset(), top_k=1)
    (response, _), text = batch.samples.responses()[0], list(prompt)
    for token in response.tolist():
        assert token == int(model.prefill(torch.tensor(text))[1].argmax())
        text.append(token)


def test_a_cache_beyond_the_limit_is_refused_with_what_to_change(model: RolloutModel) -> None:
    one = generator(model, max_tokens_to_oom=3 * BLOCK)
    with pytest.raises(
        ValueError, match=r"max_tokens_to_oom=192 allows fewer; set rollout_slots to at most 3 or raise"
    ):
        one.generate(tensors(PROMPTS), range(6))
    assert len(generator(model, max_tokens_to_oom=3 * BLOCK, rollout_slots=3).generate(tensors(PROMPTS), range(6))) == 6
    # A call that needs few slots is not measured by those it could have.
    assert len(one.generate(tensors(PROMPTS[:1]), [0])) == 1
    with pytest.raises(ValueError, match="shorten prompts and responses, or raise max_tokens_to_oom to"):
        generator(model, max_tokens_to_oom=BLOCK - 1).generate(tensors(PROMPTS), range(6))


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ([[5, 1], []], "prompt 1 of 2 is empty"),
        ([[5, 93]], "prompt 0 of 1 has token ids from 5 to 93, the model has 0 to 92"),
        ([[-1]], "has token ids from -1 to -1"),
    ],
)
def test_prompts_that_leave_no_space_for_a_response_are_refused(
    prompts: list[list[int]], problem: str, model: RolloutModel
) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        generator(model).generate(tensors(prompts), range(len(prompts)))


def test_limits_and_numbers_must_fit(model: RolloutModel) -> None:
    with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
        generator(model, max_new_tokens=0)
    with pytest.raises(ValueError, match="6 prompts need as many sample numbers, got 5"):
        generator(model).generate(tensors(PROMPTS), range(5))


def test_weights_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    broken = rollout_model(save_tiny_model("llama", tmp_path), dtype=torch.float64)
    broken.layers[2].mlp.down.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        rollout(broken)


def test_weights_that_do_not_fit_are_named(model: RolloutModel) -> None:
    weights = {"embedding.word_embeddings.weight": torch.zeros(5, 32)}
    with pytest.raises(ValueError, match=r"word_embeddings.weight is \[5, 32\], expected \[93, 32\]; .* is missing"):
        RolloutModel(model.model, weights, model.tp)


def test_a_batch_holds_prompts_rows_and_version(model: RolloutModel) -> None:
    one = generator(model, n_samples_per_prompt=3)
    batch = one.rollout(tensors(PROMPTS), [10, 11, 12, 13, 14, 15], range(6), version=4)
    assert [p.tolist() for p in batch.samples.prompts()] == PROMPTS
    assert batch.rows.tolist() == [10, 11, 12, 13, 14, 15] and batch.version == 4
    assert batch.num_responses == 3 and batch.logps is not None and batch.logps.dtype == torch.float64
    sampled = one.generate(tensors(PROMPTS), range(6), with_logps=False)
    without = rollout_batch(tensors(PROMPTS), range(6), sampled, 4, 3)
    assert without.logps is None and torch.equal(without.samples.response_tokens, batch.samples.response_tokens)


def test_a_replica_without_prompts_has_an_empty_part(model: RolloutModel) -> None:
    part = generator(model).rollout([], [], [], version=2)
    assert part.num_prompts == 0 and part.num_responses == 2 and part.logps is not None
    complete = type(part).concat([rollout(model), type(part)(part.samples, part.rows, part.ended, part.logps, 0)])
    assert complete.num_prompts == 6
