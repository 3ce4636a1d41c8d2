"""Settings together: sizes divide, choices fit, and one mistake is one problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.small_config import problems, put, resolved, small_tree

TABLE: list[tuple[dict[str, Any], str]] = [
    (
        {"tensor_model_parallel_size": 3},
        "does not divide num_attention_heads=4, num_query_groups=2 and ffn_hidden_size=176",
    ),
    ({"tensor_model_parallel_size": 3}, "choose 1 or 2"),
    (
        {"pipeline_model_parallel_size": 3},
        "training.pipeline_model_parallel_size=3 does not divide num_layers=4; choose 1, 2 or 4",
    ),
    (
        {"pipeline_model_parallel_size": 4},
        "resource_pool.actor_rollout=[2] has 2 processes, which is not a multiple of tensor x pipeline = 4",
    ),
    ({"num_layers_per_virtual_pipeline_stage": 2}, "=2 requires a pipeline_model_parallel_size of 2 or more"),
    (
        {"num_layers_per_virtual_pipeline_stage": 2, "pipeline_model_parallel_size": 2},
        "num_layers_per_virtual_pipeline_stage=2 does not divide the 2 layers of a device (num_layers=4 / "
        "pipeline_model_parallel_size=2) into several equal stages; choose 1",
    ),
    (
        {"num_layers_per_virtual_pipeline_stage": 4, "pipeline_model_parallel_size": 2, "num_layers": 12},
        "does not divide the 6 layers of a device (num_layers=12 / pipeline_model_parallel_size=2) into several equal "
        "stages; choose 1, 2 or 3",
    ),
    (
        {"num_layers_per_virtual_pipeline_stage": 1, "pipeline_model_parallel_size": 2, "num_layers": 2},
        "num_layers_per_virtual_pipeline_stage=1 cannot divide a device's only layer into several stages; remove it",
    ),
    ({"global_batch_size": 6}, "not a multiple of micro_batch_size x data-parallel size = 2 x 2; choose 4 or 8"),
    ({"micro_batch_tokens": 64}, "micro_batch_tokens=64 and micro_batch_size=2 both limit a micro-batch"),
    (
        {"micro_batch_size": None, "micro_batch_tokens": 6, "pad_to_multiple_of": 8},
        "micro_batch_tokens=6 is less than 8, the multiple to which micro-batches are padded",
    ),
    (
        {"micro_batch_size": None, "micro_batch_tokens": 64, "global_batch_size": None},
        "micro_batch_tokens=64 requires global_batch_size",
    ),
    (
        {"micro_batch_size": None, "micro_batch_tokens": 64, "global_batch_size": 1},
        "global_batch_size=1 is less than one pair for each of the 2 replicas",
    ),
    ({"num_query_groups": 3}, "num_query_groups=3 does not divide num_attention_heads=4; choose 1, 2 or 4"),
    ({"num_attention_heads": 6}, "does not divide hidden_size=64; set kv_channels"),
    ({"padded_vocab_size": 100}, "padded_vocab_size=100 is less than vocab_size=262"),
    ({"padded_vocab_size": 263, "tensor_model_parallel_size": 2}, "does not divide padded_vocab_size=263"),
    ({"vocab_size": None}, "vocab_size=null must be set"),
    ({"seq_length": 512}, "seq_length=512 is more than max_position_embeddings=256"),
    (
        {"rope_scaling_type": "llama3"},
        "also requires low_freq_factor, high_freq_factor and original_max_position_embeddings",
    ),
    ({"min_lr": 1}, "min_lr=1.0 is more than lr=0.001"),
    (
        {"lr_warmup_fraction": 0.1, "lr_warmup_iters": 2},
        "lr_warmup_fraction=0.1 and lr_warmup_iters both set the warm-up",
    ),
    ({"lr_warmup_iters": 10}, "lr_warmup_iters=10 must be less than lr_decay_iters=10"),
    ({"dpo_label_smoothing": 0.1, "dpo_loss_type": "hinge"}, "has no effect with dpo_loss_type=hinge"),
    ({"dpo_label_smoothing": 0.1, "dpo_loss_type": "ipo"}, "has no effect with dpo_loss_type=ipo"),
    ({"dpo_loss_type": "exo_pair"}, "requires dpo_label_smoothing above 0"),
    ({"dpo_loss_type": ["sigmoid", "sigmoid"]}, "dpo_loss_type=[sigmoid, sigmoid] names a loss twice"),
    (
        {"dpo_loss_type": ["sigmoid", "sft"], "loss_weights": [1]},
        "loss_weights=[1.0] must have a weight for each of the 2 losses",
    ),
    ({"loss_weights": [-1]}, "loss_weights=[-1.0] must not be negative"),
    (
        {"dpo_loss_type": ["simpo", "sigmoid"]},
        "combines simpo, which has no reference and its own scale of rewards, with",
    ),
    (
        {"dpo_loss_type": ["cpo", "orpo"]},
        "combines cpo, which has no reference and its own scale of rewards, with orpo",
    ),
    ({"discopop_tau": 0.1}, "discopop_tau=0.1 has no effect with dpo_loss_type=sigmoid; remove it or choose discopop"),
    ({"gamma_beta_ratio": 1.0}, "gamma_beta_ratio=1.0 has no effect with dpo_loss_type=sigmoid"),
    ({"cpo_alpha": 0.5}, "cpo_alpha=0.5 has no effect with dpo_loss_type=sigmoid"),
    ({"loss_group_size": 2}, "loss_group_size=2 has no effect with dpo_loss_type=sigmoid"),
    ({"loss_group_size": 3, "dpo_loss_type": "aot"}, "loss_group_size=3 does not divide the 8 pairs of a step"),
    ({"f_divergence_type": "js_divergence", "dpo_loss_type": "bco_pair"}, "has no effect with dpo_loss_type=bco_pair"),
    (
        {"f_divergence_type": "js_divergence", "dpo_loss_type": ["sigmoid", "bco_pair"]},
        "does not apply to bco_pair of dpo_loss_type=[sigmoid, bco_pair]",
    ),
    ({"f_alpha_divergence_coef": 0.7}, "f_alpha_divergence_coef=0.7 has no effect with f_divergence_type=reverse_kl"),
    ({"ld_alpha": 1.5}, "ld_alpha=1.5 must be at least 0 and at most 1"),
    ({"clamp_weighting": True}, "clamp_weighting=true has no effect without use_weighting=true"),
    ({"use_weighting": True, "dpo_loss_type": "aot"}, "weights single pairs, but aot compares each pair with another"),
    ({"use_weighting": True, "dpo_loss_type": "sft"}, "use_weighting=true has no effect with dpo_loss_type=sft"),
    ({"beta_dpo_momentum": 0.5}, "beta_dpo_momentum=0.5 has no effect with beta_dpo_alpha=0 and"),
    (
        {"beta_dpo_selection_ratio": 0.8, "dpo_loss_type": ["sigmoid", "sft"]},
        "leaves out single pairs, but sft compares",
    ),
    ({"beta_dpo_alpha": 0.6, "dpo_loss_type": "simpo"}, "adapts beta to the margin over the reference"),
    ({"beta_dpo_selection_ratio": 0.8, "dpo_loss_type": "cpo"}, "selects pairs by the margin over the reference"),
    ({"margin_column": "gap", "dpo_loss_type": "ipo"}, "margin_column=gap has no effect with dpo_loss_type=ipo"),
    ({"margin_scale": 2.0, "dpo_loss_type": "ipo"}, "margin_scale=2.0 has no effect with dpo_loss_type=ipo"),
    ({"margin_scale": 2.0}, "margin_scale=2.0 has no effect without margin_column"),
    ({"margin_scale": 0.0, "margin_column": "gap"}, "margin_scale=0.0 must be more than 0"),
    (
        {"dpo_loss_type": "rpo_bwd_kl"},
        "dpo_loss_type=[rpo_bwd_kl] requires margin_column, the difference of the scores of both responses",
    ),
    (
        {"dpo_loss_type": ["rpo_sq", "hinge"], "margin_column": "gap"},
        "combines rpo_sq, whose target is the margin, with hinge, which takes it off",
    ),
    (
        {"dpo_loss_type": "simpo", "ref_model": "./other"},
        "ref_model=./other names a reference, but dpo_loss_type=simpo",
    ),
    ({"dpo_loss_type": "orpo", "reference": "live"}, "reference=live has no effect with dpo_loss_type=orpo"),
    ({"context_parallel_size": 8}, "does not divide the 4 attention heads of a device (num_attention_heads=4 / "),
    (
        {"context_parallel_size": 2, "context_parallel_algo": "megatron_cp_algo"},
        "context_parallel_algo=megatron_cp_algo is not implemented with context_parallel_size=2: rows hold",
    ),
    (
        {"tensor_model_parallel_size": 2, "context_parallel_size": 2},
        "not a multiple of tensor x context x pipeline = 4; choose 4, 8 or 16 in total",
    ),
    ({"recompute_granularity": "full"}, "requires recompute_method and recompute_num_layers"),
    ({"recompute_method": "block"}, "has no effect without recompute_granularity=full"),
    ({"overlap_param_gather": True}, "has no effect without use_distributed_optimizer"),
    ({"eval_interval": 5}, "split=100,0,0 has no rows for it"),
    ({"split": "a,b"}, "split=a,b must be one to three shares"),
    ({"split": "0,100"}, "split=0,100 must be one to three shares"),
    ({"split": "90,5,4,1"}, "must be one to three shares"),
    ({"load": None}, "load=null must name the initial weights"),
    ({"random_init": True}, "random_init=true and load exclude each other"),
    ({"distributed_backend": "gloo", "device": "npu"}, "runs on the CPU only, but device=npu"),
    (
        {"device": "npu", "kv_channels": 770},
        "kv_channels=770 is not supported with device=npu: the width of a head must be even",
    ),
    ({"device": "npu", "kv_channels": 17}, "kv_channels=17 is not supported with device=npu"),
    (
        {"device": "npu", "num_attention_heads": 520, "kv_channels": 16, "tensor_model_parallel_size": 2},
        "tensor_model_parallel_size=2 gives each device 260 attention heads; device=npu supports at most 256",
    ),
]


@pytest.mark.parametrize(("changes", "words"), TABLE, ids=[str(changes) for changes, _ in TABLE])
def test_settings_that_do_not_fit_are_one_problem(changes: dict[str, Any], words: str) -> None:
    tree = small_tree()
    for key, value in changes.items():
        put(tree, key, value)
    actual = problems(tree)
    assert len(actual) == 1, actual
    assert words in actual[0]


FINE: list[dict[str, Any]] = [
    {"eval_interval": 5, "eval_iters": 0},
    {"eval_interval": 0},
    {"eval_interval": 5, "split": "90,10"},
    {"lr_warmup_fraction": 0.0, "lr_warmup_iters": 0},
    {"random_init": True, "load": None},
    {"recompute_granularity": "selective"},
    {"num_attention_heads": 6, "kv_channels": 12, "num_query_groups": 2},
    {"min_lr": 1e-3},
    {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    {"context_parallel_size": 2, "context_parallel_algo": "ulysses_cp_algo"},
    {"num_layers_per_virtual_pipeline_stage": 1, "pipeline_model_parallel_size": 2},
    {"context_parallel_algo": "megatron_cp_algo"},
    {"device": "npu", "kv_channels": 768},
    {"device": "cpu", "kv_channels": 770},
    {"device": "npu", "num_attention_heads": 512, "kv_channels": 16, "tensor_model_parallel_size": 2},
    {"device": "npu", "num_attention_heads": 512, "kv_channels": 16, "context_parallel_size": 2},
]


@pytest.mark.parametrize("changes", FINE, ids=str)
def test_settings_that_fit_are_no_problem(changes: dict[str, Any]) -> None:
    tree = small_tree()
    for key, value in changes.items():
        put(tree, key, value)
    assert problems(tree) == []


def test_unrelated_problems_come_in_one_list() -> None:
    tree = small_tree()
    for key, value in {"min_lr": 1, "split": "x", "lr_decay_style": "linaer", "trian_iters": 3}.items():
        put(tree, key, value)
    tree["resource_pool"]["actor_rolout"] = [1]
    actual = "\n".join(problems(tree))
    for key in ("min_lr=", "split=", "lr_decay_style=", "trian_iters", "actor_rolout"):
        assert key in actual
    assert actual.count("\n") == 4


@pytest.mark.parametrize("pool", [0, [], [0], ["x"], [True], {"a": 1}, [2.0], "many"])
def test_a_pool_is_a_list_of_processes_per_node(pool: object) -> None:
    tree = small_tree()
    tree["resource_pool"]["actor_rollout"] = pool
    (actual,) = problems(tree)
    assert actual.startswith("resource_pool.actor_rollout=")


def test_the_sharing_reference_has_the_layout_of_the_actor() -> None:
    tree = small_tree()
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "weights", "tensor_model_parallel_size": 2}
    (actual,) = problems(tree)
    assert "actor_rollout_ref.ref.tensor_model_parallel_size=2 differs from 1 of the actor" in actual
    tree["resource_pool"]["ref"] = [2]
    assert problems(tree) == []


def test_a_reference_with_one_stage_has_no_virtual_ones() -> None:
    tree = put(put(small_tree(), "pipeline_model_parallel_size", 2), "num_layers_per_virtual_pipeline_stage", 1)
    assert [role.num_chunks for role in resolved(tree).roles] == [2, 2]
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "weights"}
    assert [role.num_chunks for role in resolved(tree).roles] == [2, 2]
    tree["actor_rollout_ref"]["ref"]["pipeline_model_parallel_size"] = 1
    tree["resource_pool"]["ref"] = [1]
    assert [role.num_chunks for role in resolved(tree).roles] == [2, 1]
    tree["actor_rollout_ref"]["ref"]["num_layers_per_virtual_pipeline_stage"] = 1
    (actual,) = problems(tree)
    assert "ref.num_layers_per_virtual_pipeline_stage=1 requires a pipeline_model_parallel_size of 2" in actual


def test_a_reference_that_follows_has_the_virtual_stages_of_the_policy() -> None:
    tree = put(small_tree(), "pipeline_model_parallel_size", 2)
    for key, value in {"num_layers_per_virtual_pipeline_stage": 1, "sync_ref_model": True, "reference": "live"}.items():
        put(tree, key, value)
    assert problems(tree) == []
    tree["actor_rollout_ref"]["ref"] = {
        "model": "small",
        "load": "weights",
        "num_layers_per_virtual_pipeline_stage": None,
    }
    (actual,) = problems(tree)
    assert "requires the same num_layers_per_virtual_pipeline_stage for actor and reference" in actual


def test_a_reference_that_follows_in_a_pool_of_its_own_has_one_stage_and_the_same_model() -> None:
    tree = put(put(small_tree(), "sync_ref_model", True), "reference", "live")
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "weights"}
    tree["resource_pool"]["ref"] = [2]
    assert problems(tree) == []
    tree["actor_rollout_ref"]["ref"]["pipeline_model_parallel_size"] = 2
    (actual,) = problems(tree)
    assert "sync_ref_model=true requires a reference with one pipeline stage on processes of its own" in actual
    del tree["actor_rollout_ref"]["ref"]["pipeline_model_parallel_size"]
    tree["actor_rollout_ref"]["ref"]["bf16"] = True
    (actual,) = problems(tree)
    assert "requires a reference with the actor's model and number format" in actual


def test_a_bad_size_in_training_is_reported_once_for_actor_and_reference() -> None:
    tree = put(small_tree(), "pipeline_model_parallel_size", 3)
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "weights"}
    tree["resource_pool"] = {"actor_rollout": [3], "ref": [3]}
    tree["training"].pop("global_batch_size")
    assert len(problems(tree)) == 1


def test_the_reference_knows_the_tokens_of_the_actor() -> None:
    tree = small_tree()
    tree["model"]["other"] = {**tree["model"]["small"], "vocab_size": 300}
    tree["actor_rollout_ref"]["ref"] = {"model": "other", "load": "weights"}
    (actual,) = problems(tree)
    assert "model.other.vocab_size=300 differs from 262 of the actor" in actual


def test_two_names_for_the_reference_must_agree() -> None:
    tree = put(small_tree(), "ref_model", "elsewhere")
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "weights"}
    (actual,) = problems(tree)
    assert "differs from ref_model=elsewhere" in actual


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("load", "weights"),
        ("tokenizer_name_or_path", "hf"),
        ("ref_model", "other"),
        ("resume_from", "run"),
        ("prompt_type_path", "templates.json"),
    ],
)
def test_a_path_that_does_not_exist_is_one_problem(key: str, path: str) -> None:
    actual = problems(put(small_tree(), key, path), exists=lambda name: name != path)
    assert len(actual) == 1
    assert f"{key}={path} does not exist" in actual[0]


@pytest.mark.parametrize("key", ["output_dir", "save", "reference_cache_dir"])
def test_an_output_folder_that_cannot_be_created_is_one_problem(key: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = problems(put(small_tree(), key, f"{tmp_path}/file/below"))
    assert f"{key}={tmp_path}/file/below cannot be created: {tmp_path}/file is a file; choose another folder" in found


@pytest.mark.parametrize("column", ["chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"])
@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_an_incomplete_data_set_is_named_by_its_first_missing_file(column: str, ending: str) -> None:
    file = f"pairs_packed_{column}_document.{ending}"
    (actual,) = problems(small_tree(), exists=lambda name: name != file)
    assert "data_path=pairs" in actual
    assert file in actual


def test_every_data_set_of_a_weighted_list_must_be_there() -> None:
    tree = put(small_tree(), "data_path", "0.7,first,0.3,second")
    (actual,) = problems(tree, exists=lambda name: not name.startswith("second"))
    assert "second_packed_chosen_input_ids_document.bin" in actual


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"micro_batch_tokens": 512}, "micro_batch_tokens=512 and micro_batch_size=2 both limit"),
        ({"micro_batch_tokens": 8, "pad_to_multiple_of": 16, "micro_batch_size": None}, "is less than 16"),
        (
            {"micro_batch_tokens": 512, "micro_batch_size": None, "global_batch_size": None},
            "requires global_batch_size",
        ),
        ({"micro_batch_tokens": 512, "micro_batch_size": None, "global_batch_size": 1}, "less than one pair for each"),
    ],
)
def test_a_budget_of_tokens_is_one_way_to_fill_a_micro_batch(settings: dict[str, Any], sentence: str) -> None:
    tree = small_tree()
    for key, value in settings.items():
        put(tree, key, value)
    (actual,) = problems(tree)
    assert sentence in actual


def test_with_a_budget_of_tokens_no_number_of_pairs_has_to_divide() -> None:
    tree = put(put(put(small_tree(), "micro_batch_tokens", 512), "micro_batch_size", None), "global_batch_size", 7)
    run = resolved(tree)
    assert (run.actor.batch.micro_batch_size, run.actor.batch.micro_batch_tokens) == (None, 512)
    assert resolved(put(small_tree(), "micro_batch_size", None)).actor.batch.micro_batch_size == 1
