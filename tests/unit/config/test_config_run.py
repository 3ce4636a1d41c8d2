"""The resolved run: derived numbers, and that it can be frozen, written and read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from tests.unit.config.small_config import NOON, Tree, online_tree, put, resolved, small_tree


def _variants() -> list[Tree]:
    plain, with_ref = small_tree(), small_tree()
    with_ref["actor_rollout_ref"]["ref"] = {"model": "small", "load": "other", "micro_batch_size": 4, "bf16": True}
    with_ref["resource_pool"]["ref"] = [1, 1]
    started = put(put(small_tree(), "random_init", True), "load", None)
    falsy = put(put(put(small_tree(), "share_prompt", False), "weight_decay", 0), "tensorboard", False)
    return [plain, with_ref, started, put(small_tree(), "lr", 1e-7), falsy]


@pytest.mark.parametrize(
    "tree", _variants(), ids=["plain", "own reference", "random start", "small float", "falsy values"]
)
def test_the_written_run_reads_back_equal(tree: Tree, tmp_path: Path) -> None:
    run = resolved(tree)
    (tmp_path / "config.yaml").write_text(run.as_yaml())
    again = load_run("config", config_dir=tmp_path, exists=lambda path: True)
    assert again == run
    assert again.as_yaml() == run.as_yaml()


def _online_variants() -> dict[str, Tree]:
    by_model = online_tree(num_gpus_for_train=1, num_gpus_for_infer=3, inference_tensor_model_parallel_size=1)
    by_model["reward"] = {"load": "reward", "tensor_model_parallel_size": 2, "no_post_layer_norm": True}
    by_model["resource_pool"] = {"actor_rollout": [2, 2], "ref": "reward", "reward": [2]}
    by_judge = put(put(online_tree(), "dpo_loss_type", "ipo"), "ipo_normalize", True)
    by_judge["reward"] = {"judge": "package.judge", "reward_timeout_s": 5, "dataset_additional_keys": ["labels"]}
    by_judge["resource_pool"]["reward"] = [1]
    sharing = online_tree(num_gpus_for_infer=2, tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    sharing["resource_pool"] = {"actor_rollout": [4, 2], "ref": "rollout"}
    sharing["training"] |= {"dpo_beta_end": 0.5, "dpo_beta_style": "cosine", "log_samples_interval": 3}
    return {"in place": online_tree(), "own pools": by_model, "a judge": by_judge, "a shared rollout": sharing}


@pytest.mark.parametrize("tree", _online_variants().values(), ids=_online_variants())
def test_the_written_online_run_reads_back_equal_and_without_a_word(tree: Tree, tmp_path: Path) -> None:
    run = resolved(tree)
    assert run.notes == ()
    (tmp_path / "config.yaml").write_text(run.as_yaml())
    again = load_run("config", config_dir=tmp_path, exists=lambda path: True)
    assert again == run
    assert again.notes == ()
    assert again.as_yaml() == run.as_yaml()


@pytest.mark.parametrize("tree", [small_tree(), *_online_variants().values()], ids=["offline", *_online_variants()])
def test_a_role_survives_json(tree: Tree) -> None:
    for role in resolved(tree).roles:
        assert RoleConfig.from_dict(json.loads(json.dumps(role.as_dict()))) == role


def test_a_run_cannot_be_changed() -> None:
    run = resolved(small_tree())
    for part, key in ((run, "name"), (run.loop, "seed"), (run.actor, "model"), (run.actor.optimizer, "lr")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, key, None)


@pytest.mark.parametrize(
    ("tp", "pp", "cp", "pool", "replicas"),
    [(1, 1, 1, [2], 2), (2, 1, 1, [2], 1), (2, 2, 1, [4, 4], 2), (1, 4, 1, [4], 1), (1, 1, 2, [4], 2)],
)
def test_replicas_are_processes_by_the_size_of_one(tp: int, pp: int, cp: int, pool: list[int], replicas: int) -> None:
    tree = put(put(small_tree(), "tensor_model_parallel_size", tp), "pipeline_model_parallel_size", pp)
    put(tree, "context_parallel_size", cp)
    tree["resource_pool"]["actor_rollout"] = pool
    run = resolved(tree)
    assert run.num_processes("actor") == run.num_processes("ref") == sum(pool)
    assert run.data_parallel_size("actor") == replicas


def test_absent_settings_follow_from_others() -> None:
    tree = small_tree()
    del tree["training"]["global_batch_size"]
    run = resolved(tree)
    assert run.actor.batch.global_batch_size == 4
    assert run.actor.optimizer.lr_decay_iters == 10
    assert run.actor.data.seq_length == 256
    assert run.actor.model.kv_channels == 16
    assert run.loop.output_dir == f"outputs/small_run/{NOON:%Y-%m-%d_%H-%M-%S}"
    assert run.actor.checkpoint.save == f"{run.loop.output_dir}/checkpoints"


def test_without_a_pool_there_is_one_replica_and_a_note() -> None:
    tree = put(small_tree(), "tensor_model_parallel_size", 2)
    del tree["resource_pool"]
    run = resolved(tree)
    assert run.pools == {"actor_rollout": (2,)}
    assert any("resource_pool.actor_rollout is not set" in note for note in run.notes)


def test_sequence_parallel_needs_tensor_parallel() -> None:
    run = resolved(put(small_tree(), "sequence_parallel", True))
    assert not run.actor.parallel.sequence_parallel
    assert any("sequence_parallel is off" in note for note in run.notes)


def test_gloo_means_the_cpu() -> None:
    assert resolved(put(small_tree(), "distributed_backend", "gloo")).loop.device == "cpu"


@pytest.mark.parametrize(
    ("vocab", "multiple", "padded", "tp", "rows"),
    [(262, 1, None, 4, 264), (262, 128, None, 2, 512), (256, 128, None, 2, 256), (262, 1, 300, 4, 300)],
)
def test_the_vocabulary_is_padded_to_the_next_multiple(
    vocab: int, multiple: int, padded: int | None, tp: int, rows: int
) -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=8,
        num_attention_heads=2,
        max_position_embeddings=8,
        vocab_size=vocab,
        make_vocab_size_divisible_by=multiple,
        padded_vocab_size=padded,
    )
    assert model.padded_vocab(tp) == rows


def test_a_model_survives_json_and_names_what_it_does_not_know() -> None:
    model = resolved(small_tree()).actor.model
    assert ModelConfig.from_dict(json.loads(json.dumps(model.as_dict()))) == model
    with pytest.raises(ValueError, match="num_layer is not a known key; did you mean num_layers"):
        ModelConfig.from_dict({**model.as_dict(), "num_layer": 1})
    with pytest.raises(ValueError, match="hidden_size is missing"):
        ModelConfig.from_dict({"num_layers": 1})
