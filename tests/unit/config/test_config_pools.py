"""Pools of the roles: the rollout's part of the actor's pool, separate pools, and sharing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.config.loading.resource_pools import split_pool
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved, small_tree


@given(st.lists(st.integers(1, 16), min_size=1, max_size=6), st.data())
def test_carving_keeps_every_process_in_order(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(sizes) - 1))
    front, tail = split_pool(tuple(sizes), count)
    assert sum(tail) == count
    assert min((*front, *tail)) >= 1

    def nodes(parts: tuple[int, ...], offset: int) -> list[int]:
        return [offset + index for index, size in enumerate(parts) for _ in range(size)]

    complete = nodes(tuple(sizes), 0)
    assert nodes(front, 0) == complete[: sum(front)]
    assert nodes(tail, len(sizes) - len(tail)) == complete[sum(front) :]


@pytest.mark.parametrize(
    ("pool", "devices", "train", "infer"),
    [
        ([2], {}, (2,), None),
        ([2], {"num_gpus_for_infer": 0}, (2,), None),
        ([2], {"num_gpus_for_train": 2}, (2,), None),
        ([2], {"num_gpus_for_train": 1}, (1,), (1,)),
        ([4], {"num_gpus_for_infer": 1}, (3,), (1,)),
        ([8, 8], {"num_gpus_for_train": 12, "num_gpus_for_infer": 4}, (8, 4), (4,)),
        ([8, 8], {"num_gpus_for_train": 4, "num_gpus_for_infer": 12}, (4,), (4, 8)),
        ([8, 8], {"num_gpus_for_train": 8, "num_gpus_for_infer": 8}, (8,), (8,)),
        (None, {"num_gpus_for_infer": 3}, (1,), (3,)),
        (None, {"num_gpus_for_train": 2, "num_gpus_for_infer": 3}, (2,), (3,)),
    ],
)
def test_the_rollout_has_the_last_processes(
    pool: list[int] | None, devices: dict[str, int], train: tuple[int, ...], infer: tuple[int, ...] | None
) -> None:
    tree = online_tree(**devices)
    tree["resource_pool"]["actor_rollout"] = pool
    run = resolved(tree)
    assert run.pools == {"actor_rollout": train, **({"rollout": infer} if infer else {})}
    assert run.pool_of("rollout") == ("rollout" if infer else "actor_rollout")
    assert run.num_processes("rollout") == sum(infer or train)
    assert run.layout_role(run.pool_of("rollout")).name == ("rollout" if infer else "actor")
    assert run.actor.rollout.num_gpus_for_train == sum(train)
    assert run.actor.rollout.num_gpus_for_infer == sum(infer or ())


@pytest.mark.parametrize(
    ("train", "infer"), [(1, 2), (3, None), (None, 2), (1, 0), (None, 3)], ids=lambda count: str(count)
)
def test_devices_that_do_not_add_up_name_all_three(train: int | None, infer: int | None) -> None:
    (actual,) = problems(online_tree(num_gpus_for_train=train, num_gpus_for_infer=infer))
    for word in ("num_gpus_for_train=", "num_gpus_for_infer=", "resource_pool.actor_rollout=[2]", "2 processes"):
        assert word in actual


def test_the_rollout_is_the_actor_in_a_layout_of_its_own() -> None:
    tree = online_tree(
        num_gpus_for_train=4,
        num_gpus_for_infer=4,
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=2,
        num_layers_per_virtual_pipeline_stage=1,
        sequence_parallel=True,
        inference_tensor_model_parallel_size=1,
    )
    tree["resource_pool"]["actor_rollout"] = [8]
    run = resolved(tree)
    assert run.rollout is not None
    parallel = run.rollout.parallel
    assert (parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size) == (1, 1)
    assert not parallel.sequence_parallel
    assert (run.actor.num_chunks, run.rollout.num_chunks) == (2, 1)
    assert run.rollout.model is run.actor.model
    assert [run.data_parallel_size(role) for role in ("actor", "rollout")] == [1, 4]
    del tree["actor_rollout_ref"]["actor_rollout"]["inference_tensor_model_parallel_size"]
    assert resolved(tree).data_parallel_size("rollout") == 2


def test_devices_that_share_rows_generate_as_replicas() -> None:
    run = resolved(online_tree(context_parallel_size=2))
    assert [run.data_parallel_size(role) for role in ("actor", "ref", "reward", "rollout")] == [1, 1, 1, 2]


def test_processes_that_generate_hold_complete_replicas() -> None:
    tree = online_tree(num_gpus_for_train=2, num_gpus_for_infer=1, tensor_model_parallel_size=2)
    tree["resource_pool"]["actor_rollout"] = [3]
    (actual,) = problems(tree)
    assert "inference_tensor_model_parallel_size=2 does not divide num_gpus_for_infer=1; choose 1" in actual


def test_processes_that_train_hold_complete_replicas() -> None:
    tree = online_tree(num_gpus_for_infer=1, tensor_model_parallel_size=2, inference_tensor_model_parallel_size=1)
    tree["resource_pool"]["actor_rollout"] = [4]
    (actual,) = problems(tree)
    assert actual == "num_gpus_for_train=3 is not a multiple of tensor x pipeline = 2; choose 2, 4 or 8"


def by_model(**reward: object) -> Tree:
    tree = online_tree(num_gpus_for_train=4, num_gpus_for_infer=4, tensor_model_parallel_size=2)
    tree["resource_pool"]["actor_rollout"] = [8]
    tree["reward"] = {"load": "reward", **reward}
    return tree


@pytest.mark.parametrize(
    ("pools", "ref", "reward"),
    [
        ({}, "actor_rollout", "actor_rollout"),
        ({"ref": [2]}, "ref", "actor_rollout"),
        ({"reward": [1]}, "actor_rollout", "reward"),
        ({"ref": [2], "reward": "ref"}, "ref", "ref"),
        ({"ref": "reward", "reward": [2]}, "reward", "reward"),
        ({"reward": "rollout"}, "actor_rollout", "rollout"),
        ({"ref": "rollout", "reward": "ref"}, "rollout", "rollout"),
        ({"reward": "actor_rollout"}, "actor_rollout", "actor_rollout"),
        ({"reward": "ref"}, "actor_rollout", "actor_rollout"),
    ],
)
def test_a_role_sits_on_its_pool_or_on_that_of_another(pools: Tree, ref: str, reward: str) -> None:
    tree = by_model(**({"tensor_model_parallel_size": 1} if pools == {"reward": [1]} else {}))
    tree["resource_pool"] |= pools
    run = resolved(tree)
    assert (run.pool_of("ref"), run.pool_of("reward")) == (ref, reward)
    for role in run.roles:
        leader = run.layout_role(run.pool_of(role.name))
        assert role.replica_size == leader.replica_size, role.name


def test_pools_are_in_the_order_of_roles() -> None:
    tree = by_model()
    tree["resource_pool"] = {"reward": [2], "ref": [2], "actor_rollout": [8]}
    assert list(resolved(tree).pools) == ["actor_rollout", "rollout", "ref", "reward"]


def test_a_shared_pool_has_one_layout() -> None:
    tree = by_model(tensor_model_parallel_size=1)
    tree["resource_pool"]["reward"] = "rollout"
    (actual,) = problems(tree)
    assert "reward.tensor_model_parallel_size=1 differs from 2 of the rollout, whose devices it shares" in actual


def test_functions_take_any_layout() -> None:
    tree = online_tree(tensor_model_parallel_size=2)
    assert resolved(tree).data_parallel_size("reward") == 1
    tree["resource_pool"]["reward"] = [3]
    assert resolved(tree).data_parallel_size("reward") == 3


def test_pools_that_name_each_other_are_one_problem() -> None:
    tree = by_model()
    tree["resource_pool"] |= {"ref": "reward", "reward": "ref"}
    (actual,) = problems(tree)
    assert "resource_pool.ref=reward is circular" in actual


@pytest.mark.parametrize(
    ("pool", "value", "words"),
    [
        ("rollout", [4], "resource_pool.rollout is refused: the rollout uses the last num_gpus_for_infer processes"),
        ("reward", "reff", "or the name of another pool: actor_rollout, rollout or ref"),
        ("reward", "reward", "or the name of another pool: actor_rollout, rollout or ref"),
        ("actor_rollout", "ref", "must be the number of processes of each node, such as [8] or [8, 8]"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(pool: str, value: object, words: str) -> None:
    tree = by_model()
    tree["resource_pool"][pool] = value
    actual = problems(tree)
    assert len(actual) == 1, actual
    assert words in actual[0]


def test_a_reference_without_a_section_fits_the_pool_of_its_own() -> None:
    tree = put(small_tree(), "tensor_model_parallel_size", 2)
    tree["resource_pool"]["ref"] = [3]
    (actual,) = problems(tree)
    assert "resource_pool.ref=[3] has 3 processes, which is not a multiple of tensor x pipeline = 2" in actual
