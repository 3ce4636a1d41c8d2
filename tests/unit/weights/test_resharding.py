"""Weights arrive bit for bit, whatever the layouts; sides that differ all stop, and say where."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.processes import pool
from tests.support.tiny_models import save_tiny_model, tiny_config
from tests.unit.weights.resharding_jobs import Outcome, Side, copy_within, host, publish, receive

pytestmark = pytest.mark.distributed

Layout = tuple[int, int, int]
TRAINED: list[Layout] = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2)]
NORM, GATE_UP = "decoder.layers.0.input_layernorm.weight", "decoder.layers.0.mlp.linear_fc1.weight"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Side]:
    """A function from the name of a tiny model to weights before and after training."""
    made: dict[str, Side] = {}

    def folders(name: str) -> Side:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            made[name] = Side(*(save_tiny_model(name, root / str(seed), seed) for seed in (0, 1)))
        return made[name]

    return folders


def send(trained: Side, sampled: Side, layout: Layout, receivers: int) -> tuple[list[Outcome], list[Outcome]]:
    """What the processes of both jobs saw."""
    tp, pp, dp = layout
    actor, rollout = pool(tp * pp * dp), pool(receivers, "rollout")
    address = actor.run(host)[0]
    with ThreadPoolExecutor() as threads:
        publishing = threads.submit(actor.run, publish, address, replace(trained, tp=tp, pp=pp), receivers)
        receiving = threads.submit(rollout.run, receive, address, sampled, pp)
        return publishing.result(), receiving.result()


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("layout", TRAINED, ids=str)
@pytest.mark.parametrize("name", ["llama_tied", "qwen2"])
def test_every_layout_receives_what_every_layout_trained(
    weights: Callable[[str], Side], name: str, layout: Layout, tp: int
) -> None:
    side = weights(name)
    published, received = send(side, replace(side, tp=tp), layout, receivers=tp)
    assert [outcome.problem for outcome in (*published, *received)] == [""] * (len(published) + len(received))
    for outcome in received:
        assert outcome.differing == []
        assert len(outcome.received) > 1 and max(outcome.received) <= side.bucket_bytes


def test_several_replicas_receive_at_once(weights: Callable[[str], Side]) -> None:
    side = weights("qwen3")
    _, received = send(side, side, (2, 1, 1), receivers=2)
    assert [outcome.differing for outcome in received] == [[], []]


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("layout", [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1)], ids=str)
def test_a_copy_in_the_same_processes_is_the_same(weights: Callable[[str], Side], layout: Layout, tp: int) -> None:
    side = weights("llama_tied")
    trained = replace(side, tp=layout[0], pp=layout[1])
    for outcome in pool(layout[0] * layout[1] * layout[2]).run(copy_within, trained, replace(side, tp=tp)):
        assert (outcome.problem, outcome.differing) == ("", [])


def test_low_precision_travels_as_it_is(weights: Callable[[str], Side]) -> None:
    side = replace(weights("qwen3"), dtype=torch.bfloat16)
    _, received = send(side, replace(side, tp=2), (2, 1, 1), receivers=2)
    assert [(outcome.problem, outcome.differing) for outcome in received] == [("", [])] * 2


@pytest.mark.parametrize("bucket_bytes", [256, 1000, 1 << 20])
def test_the_bound_on_buckets_holds_for_any_size(weights: Callable[[str], Side], bucket_bytes: int) -> None:
    side = replace(weights("llama"), bucket_bytes=bucket_bytes)
    _, (received,) = send(side, side, (2, 1, 1), receivers=1)
    assert received.differing == [] and max(received.received) <= bucket_bytes
    model = AutoModelForCausalLM.from_pretrained(side.after)
    assert sum(received.received) == sum(parameter.nbytes for parameter in model.parameters())
    assert (len(received.received) == 1) == (bucket_bytes == 1 << 20)


DIFFERENT: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "version": ({"version": 3}, {"version": 4}, "publishes weights of version 3, the rollout is at version 4"),
    "missing at the actor": ({"without": NORM}, {}, f"{NORM} is missing at the actor and [32] float32 at the roll"),
    "missing at the rollout": ({}, {"without": NORM}, f"{NORM} is [32] float32 at the actor and missing at the roll"),
    "number format": (
        {"dtype": torch.bfloat16},
        {},
        "embedding.word_embeddings.weight is [93, 32] bfloat16 at the actor and [93, 32] float32 at the rollout",
    ),
    "bucket": ({"bucket_bytes": 512}, {}, "publish_bucket_bytes is 512 at the actor and 4096 at the rollout"),
}


@pytest.mark.parametrize("layout", [(2, 2, 1), (1, 1, 2)], ids=str)
@pytest.mark.parametrize("difference", DIFFERENT)
def test_sides_that_differ_stop_on_both_sides(weights: Callable[[str], Side], difference: str, layout: Layout) -> None:
    side = weights("llama")
    mine, theirs, sentence = DIFFERENT[difference]
    expect_refusal(replace(side, **mine), replace(side, tp=2, **theirs), layout, sentence)


def test_another_size_of_model_stops_on_both_sides(weights: Callable[[str], Side], tmp_path: Path) -> None:
    config = tiny_config("llama")
    config.intermediate_size = 64
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    wider = Side(tmp_path, tmp_path)
    sentence = (
        f"{GATE_UP} is [96, 32] float32 at the actor and [128, 32] float32 at the rollout (others: decoder.layers."
    )
    trained = weights("llama")
    actor, rollout = expect_refusal(trained, replace(wider, tp=2), (2, 1, 1), sentence)
    assert all("linear_fc2" in outcome.problem and "and 3 more" in outcome.problem for outcome in (actor[0], *rollout))


def test_tied_and_untied_embeddings_are_different_models(weights: Callable[[str], Side]) -> None:
    sentence = "output_layer.weight is missing at the actor and [93, 32] float32 at the rollout"
    expect_refusal(weights("llama_tied"), weights("llama"), (1, 2, 1), sentence)


def test_a_bucket_that_holds_no_row_stops_with_the_size_that_does(weights: Callable[[str], Side]) -> None:
    side = replace(weights("llama"), bucket_bytes=127)
    sentence = "publish_bucket_bytes=127 is smaller than a row of decoder.layers.0.mlp.linear_fc2.weight"
    for outcome in expect_refusal(side, side, (1, 1, 1), sentence)[1]:
        assert "set it to at least 192" in outcome.problem


def expect_refusal(trained: Side, sampled: Side, layout: Layout, sentence: str) -> tuple[list[Outcome], list[Outcome]]:
    """Both sides raise, those in the link with the sentence, and no weight moves."""
    published, received = send(trained, replace(sampled, after=sampled.before), layout, receivers=sampled.tp)
    first_replica = [o for rank, o in enumerate(published) if layout[2] == 1 or rank == 0]
    assert all(outcome.problem for outcome in first_replica)
    for outcome in (published[0], *received):
        assert sentence in outcome.problem
        assert outcome.received == []
    assert [outcome.differing for outcome in received] == [[]] * len(received)
    return published, received
