"""Two models that generate: mixed token by token, or one response each. Samples depend on nothing else here either."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mindspeed_dpo.batches import RolloutBatch, concat_responses
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.mixture_policy import MixedModel, TokenModel
from mindspeed_dpo.rollout.paired_generation import PairedGenerator, other_sample_number
from tests.support.processes import pool
from tests.support.tiny_models import save_tiny_model, tiny_model
from tests.unit.rollout.rollout_jobs import PROMPTS, rollout, rollout_model, settings, tensors
from tests.unit.rollout.test_rollout_against_hf import greedy

pytestmark = pytest.mark.numerics

# Another architecture, so that nothing of the one can pass for the other's.
POLICY, REFERENCE = "llama", "llama_mha"
STOPS = frozenset({13, 29})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    return save_tiny_model(POLICY, folder / "policy"), save_tiny_model(REFERENCE, folder / "reference")


@pytest.fixture(scope="module")
def models(folders: tuple[Path, Path]) -> tuple[RolloutModel, RolloutModel]:
    return rollout_model(folders[0]), rollout_model(folders[1])


def same(one: RolloutBatch, other: RolloutBatch) -> bool:
    """Whether tokens, ends and log-probabilities are bitwise equal."""
    assert one.logps is not None and other.logps is not None
    return (
        torch.equal(one.samples.response_lengths, other.samples.response_lengths)
        and torch.equal(one.samples.response_tokens, other.samples.response_tokens)
        and torch.equal(one.ended, other.ended)
        and torch.equal(one.logps, other.logps)
    )


@pytest.mark.parametrize("changes", [{}, {"top_k": 1}, {"top_p": 0.8, "repetition_penalty": 1.3}], ids=str)
def test_at_its_ends_the_mixture_is_the_policy_or_the_reference(
    changes: dict[str, Any], models: tuple[RolloutModel, RolloutModel]
) -> None:
    policy, reference = models
    assert same(rollout(MixedModel(policy, reference, 0.0), **changes), rollout(policy, **changes))
    assert same(rollout(MixedModel(policy, reference, 1.0), **changes), rollout(reference, **changes))
    assert not same(rollout(MixedModel(policy, reference, 0.5), **changes), rollout(policy, **changes))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_mixture_says_what_mixed_logits_of_transformers_say(
    share: float, models: tuple[RolloutModel, RolloutModel]
) -> None:
    mixed = rollout(MixedModel(*models, share), top_k=1, n_samples_per_prompt=1, stop_ids=frozenset())
    policy, reference = tiny_model(POLICY), tiny_model(REFERENCE)
    assert mixed.logps is not None
    for prompt, (response,), logp in zip(PROMPTS, mixed.samples.responses(), mixed.logps[:, 0], strict=True):
        tokens, total = list(prompt), 0.0
        with torch.no_grad():
            for _ in response:
                ours, theirs = (model(torch.tensor([tokens])).logits[0, -1] for model in (policy, reference))
                logits = share * theirs + (1 - share) * ours
                tokens.append(int(logits.argmax()))
                total += float(logits.log_softmax(-1)[tokens[-1]])
        assert tokens[len(prompt) :] == response.tolist()
        assert float(logp) == pytest.approx(total, abs=1e-3)


def test_slots_order_and_company_change_nothing(models: tuple[RolloutModel, RolloutModel]) -> None:
    mixed = MixedModel(*models, 0.5)
    complete = rollout(mixed)
    assert all(same(rollout(mixed, rollout_slots=slots), complete) for slots in (1, 64))
    order = [4, 1, 5, 0, 3, 2]
    assert same(rollout(mixed, [PROMPTS[p] for p in order], order), complete.select(order))
    assert same(rollout(mixed, [PROMPTS[2]], [2]), complete.select([2]))


def generate_pairs(policy: TokenModel, other: TokenModel, numbers: list[int], **changes: Any) -> RolloutBatch:
    between = PairedGenerator.between(policy, other, settings(**changes), max_new_tokens=12, stop_ids=STOPS, seed=1)
    return between.rollout(tensors(PROMPTS), range(len(PROMPTS)), numbers, version=7)


def test_paired_generation_has_the_policys_response_first_and_the_others_second(
    models: tuple[RolloutModel, RolloutModel],
) -> None:
    numbers = list(range(10, 16))
    actual = generate_pairs(*models, numbers)
    ours = rollout(models[0], numbers=numbers, n_samples_per_prompt=1)
    theirs = rollout(models[1], numbers=[other_sample_number(number) for number in numbers], n_samples_per_prompt=1)
    assert same(actual, concat_responses(ours, theirs)) and actual.version == 7
    assert [len(row) for row in actual.samples.responses()] == [2] * len(PROMPTS)
    assert [row[1].tolist() for row in actual.samples.responses()] == [
        row[0].tolist() for row in theirs.samples.responses()
    ]
    # As the first of two responses, the policy's is also what plain online DPO would sample.
    assert [row[0].tolist() for row in rollout(models[0], numbers=numbers).samples.responses()] == [
        row[0].tolist() for row in actual.samples.responses()
    ]


def test_a_model_against_itself_draws_other_numbers(models: tuple[RolloutModel, RolloutModel]) -> None:
    actual = generate_pairs(models[0], models[0], list(range(6)))
    assert sum(one.tolist() != other.tolist() for one, other in actual.samples.responses()) >= 5
    assert {other_sample_number(number) for number in range(100)}.isdisjoint(range(100))


def test_a_cold_reference_says_what_greedy_transformers_say(models: tuple[RolloutModel, RolloutModel]) -> None:
    actual = generate_pairs(*models, list(range(6)), temperature=1e-4)
    reference = tiny_model(REFERENCE)
    for prompt, (_, response) in zip(PROMPTS, actual.samples.responses(), strict=True):
        assert response.tolist() == greedy(reference, prompt, 12)


def test_models_of_different_vocabularies_cannot_be_mixed(models: tuple[RolloutModel, RolloutModel]) -> None:
    policy, other = models[0], copy.copy(models[1])
    other.model = replace(other.model, vocab_size=92)
    with pytest.raises(ValueError, match="a policy of 93 tokens and a reference of 92 cannot be mixed"):
        MixedModel(policy, other, 0.5)


def shared_mixture(policy: Path, reference: Path) -> RolloutBatch:
    tp = TensorGroup(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    mixed = MixedModel(rollout_model(policy, tp), rollout_model(reference, tp), 0.5)
    return rollout(mixed, max_new_tokens=5, rollout_slots=8, decode_rows=8)


@pytest.mark.distributed
def test_two_tensor_ranks_mix_as_one(folders: tuple[Path, Path], models: tuple[RolloutModel, RolloutModel]) -> None:
    alone = rollout(MixedModel(*models, 0.5), max_new_tokens=5, rollout_slots=8, decode_rows=8)
    first, second = pool(2).run(shared_mixture, *folders)
    assert same(first, second)
    assert torch.equal(first.samples.response_tokens, alone.samples.response_tokens)
    torch.testing.assert_close(first.logps, alone.logps, rtol=1e-5, atol=1e-4)
