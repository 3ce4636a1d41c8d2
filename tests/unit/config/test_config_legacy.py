"""YAML files of MindSpeed-LLM 2.0.0 and MindSpeed-RL: every key is a setting, reported, or refused with a reason."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.legacy_keys import ALIASES, ROLE_KEYS, find_legacy_key
from mindspeed_dpo.config.load import check, load_run
from mindspeed_dpo.config.loading.compose import ComposedConfig
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.registry import ONLINE_KEYS, SETTINGS
from tests.unit.config.small_config import NOON, online_tree, put, resolved, small_tree

LEGACY = Path(__file__).parent / "legacy"

PUBLISHED = (LEGACY / "published_keys.txt").read_text().split()


def _tree(file: str) -> dict[str, Any]:
    return dict(yaml.safe_load((LEGACY / file).read_text()))


def _outcome(tree: Mapping[str, Any]) -> tuple[RunConfig | None, tuple[str, ...], tuple[str, ...]]:
    """The run if there is one, the problems, the notes."""
    try:
        run = check(ComposedConfig("legacy", dict(tree), {}), exists=lambda path: True, now=NOON)
    except ConfigError as actual:
        return None, actual.problems, actual.notes
    return run, (), run.notes


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_published_key_is_recognised(key: str) -> None:
    try:
        resolved(put(small_tree(), key, "probe"))
    except ConfigError as actual:
        assert not any("not a known key" in problem for problem in actual.problems)


RENAMED = (
    *ALIASES.items(),
    ("no_pad_to_seq_lengths", "variable_seq_lengths"),
    ("attention_mask_type", "cp_attention_mask_type"),
    ("use_ascend_mc2", "use_mc2"),
    ("multi_head_latent_attention", "multi_latent_attention"),
    ("qk_rope_head_dim", "qk_pos_emb_head_dim"),
    ("qk_nope_head_dim", "qk_head_dim"),
)


@pytest.mark.parametrize(("other", "name"), RENAMED)
def test_both_spellings_of_a_renamed_key_are_treated_alike(other: str, name: str) -> None:
    sentences = []
    for key in (other, name):
        _, problems, notes = _outcome(put(small_tree(), key, "probe"))
        sentences.append([sentence.replace(f".{key}=", ".KEY=") for sentence in (*problems, *notes)])
    assert sentences[0] == sentences[1] != []


def test_the_other_spelling_of_a_setting_is_reported() -> None:
    run = resolved(put(small_tree(), "npu_deterministic", True))
    assert run.actor.precision.use_deter_comp
    assert run.notes == ("training.npu_deterministic is read as use_deter_comp",)


def test_the_online_file_runs_in_the_layout_that_was_documented() -> None:
    run, problems, notes = _outcome(_tree("online_llama.yaml"))
    assert problems == ()
    assert run is not None
    assert run.rollout is not None
    assert run.reward is not None
    assert run.ref is not None
    assert run.is_online
    assert run.pools == {"actor_rollout": (1,), "rollout": (1,), "ref": (1,), "reward": (1,)}
    assert [run.data_parallel_size(role.name) for role in run.roles] == [1, 1, 1, 1]
    assert run.loop.device == "auto"
    assert (run.actor.optimizer.lr, run.actor.batch.global_batch_size, run.actor.max_new_tokens) == (1e-7, 4, 256)
    assert (run.actor.pairing.missing_eos_penalty, run.actor.pairing.ppo_mini_batch_size) == (1.0, 4)
    assert (run.actor.rollout.n_samples_per_prompt, run.actor.rollout.top_k, run.actor.rollout.top_p) == (2, 0, 1.0)
    assert (run.reward.checkpoint.load, run.reward.reward_source) == ("./reward", "model")
    assert run.reward.model == run.actor.model
    assert run.actor.reference.reference == "live"
    assert not run.actor.loss.ipo_normalize
    assert run.actor.batch.pad_to_multiple_of == 1
    for key in ("no_shared_storage", "clip_ratio", "entropy_coeff", "initial_loss_scale", "use_mc2"):
        assert any(f".{key}=" in note and "has no effect" in note for note in notes), key
    assert any(note.startswith("algorithm.missing_eos_penalty") and "actor_rollout" in note for note in notes)
    assert not any(f".{key}=" in note for note in notes for key in ("shuffle", "swiglu", "do_sample"))


def test_every_online_key_is_reported_when_the_stage_is_offline() -> None:
    tree = _tree("online_llama.yaml")
    tree["training"]["stage"] = "dpo"
    run, problems, notes = _outcome(tree)
    assert problems == ()
    assert run is not None
    assert run.ref is not None
    used = {key for section in _sections(tree) for key in section if key in ONLINE_KEYS}
    assert len(used) >= 8
    for key in used:
        assert any(f".{key}=" in note and "only ray_online_dpo uses it" in note for note in notes), key
    assert any(note.startswith("section reward has no effect") for note in notes)
    assert any(note.startswith("resource_pool.reward has no effect") for note in notes)


def _sections(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield tree["training"]
    yield from tree["actor_rollout_ref"].values()


def test_virtual_stages_have_the_name_they_had() -> None:
    tree = copy.deepcopy(_tree("mindspeed_rl.yaml"))
    tree["megatron_training"]["num_layers_per_virtual_pipeline_stage"] = 1
    run, problems, _ = _outcome(tree)
    assert problems == ()
    assert run is not None
    assert (run.actor.num_chunks, run.actor.parallel.is_interleaved) == (2, True)


def test_the_reinforcement_learning_file_of_a_dense_model_runs() -> None:
    run, problems, notes = _outcome(_tree("mindspeed_rl.yaml"))
    assert problems == ()
    assert run is not None
    assert run.actor.optimizer.lr == 5e-8
    assert run.actor.optimizer.min_lr == 0.0
    assert run.actor.parallel.pipeline_model_parallel_size == 8
    assert run.actor.data.no_shuffle
    assert run.actor.reference.ref_model is None
    assert run.pools == {"actor_rollout": (16,)}
    assert run.loop.seed == 42
    for key in ("swap_attention", "no_pad_to_seq_lengths", "optimizer", "attention_mask_type"):
        assert not any(f".{key}=" in note for note in notes), key
    for key in (
        "initial_loss_scale",
        "reuse_fp32_param",
        "tokenizer_not_use_fast",
        "refer_model_iter",
        "wandb_project",
    ):
        assert any(f".{key}=" in note and "has no effect" in note for note in notes), key
    assert "megatron_training.npu_deterministic is read as use_deter_comp" in notes


@pytest.mark.parametrize(
    ("section", "key", "value", "reason"),
    [
        ("profiler_config", "integrated", {"profile": True}, "profiling is not implemented yet"),
        ("megatron_training", "num_layer_list", "6,10", "stages of unequal depth"),
        ("megatron_training", "expert_tensor_parallel_size", 2, "experts are never divided"),
        ("megatron_training", "attention_dropout", 0.1, "dropout"),
        ("megatron_training", "swiglu", False, "SwiGLU"),
        ("megatron_training", "moe_expert_capacity_factor", 1.5, "no token is dropped"),
        ("megatron_training", "multi_latent_attention", True, "multi-latent attention is not implemented"),
        ("megatron_training", "mtp_num_layers", 1, "layers that predict further tokens (MTP) are not implemented"),
        ("megatron_training", "optimizer", "sgd", "only Adam"),
        ("megatron_training", "lora_modules_to_save", ["norm"], "only adapters are trained"),
        ("megatron_training", "shuffle", True, "use shuffle_minibatch"),
        ("megatron_training", "stage", "sft", "this project trains dpo, rm and ray_online_dpo"),
    ],
)
def test_what_would_not_be_done_is_refused_with_the_reason(section: str, key: str, value: Any, reason: str) -> None:
    tree = copy.deepcopy(_tree("mindspeed_rl.yaml"))
    tree.setdefault(section, {})[key] = value
    _, problems, _ = _outcome(tree)
    assert len(problems) == 1, problems
    assert "is refused" in problems[0]
    assert reason in problems[0]


def test_the_ppo_sections_are_refused() -> None:
    tree = small_tree()
    tree["critic"] = {"model": "small"}
    tree["resource_pool"]["critic"] = [1]
    _, problems, _ = _outcome(tree)
    assert [problem.split(" is ")[0] for problem in problems] == ["section critic", "resource_pool.critic"]


def test_both_names_of_the_training_section_are_a_problem() -> None:
    tree = _tree("mindspeed_rl.yaml")
    tree["training"] = {"bf16": True}
    assert any("keep one" in problem for problem in _outcome(tree)[1])


def test_tables_and_settings_do_not_overlap() -> None:
    assert [key for key in SETTINGS if find_legacy_key(key, ROLE_KEYS)] == []
    assert not set(ALIASES) & {*SETTINGS, *ROLE_KEYS}


def test_a_legacy_folder_with_its_own_models_composes(tmp_path: Path) -> None:
    tree = _tree("mindspeed_rl.yaml")
    model = tree.pop("model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "dense.yaml").write_text(yaml.safe_dump(model))
    (tmp_path / "dpo_dense.yaml").write_text(yaml.safe_dump({"defaults": [{"model": ["dense"]}], **tree}))
    run = load_run("dpo_dense", config_dir=tmp_path, exists=lambda path: True)
    assert run.actor.model.num_layers == 16


def _without_choice(key: str, value: Any, online: bool = False) -> tuple[RunConfig | None, tuple[str, ...], list[str]]:
    run, problems, notes = _outcome(put(online_tree() if online else small_tree(), key, value))
    return run, problems, [note for note in notes if key in note]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer_type", "PretrainedFromHF"),
        ("tokenizer_type", "HuggingFaceTokenizer"),
        ("tokenizer_type", None),
        ("distributed_backend", "auto"),
        ("distributed_backend", "nccl"),
        ("distributed_backend", "hccl"),
        ("context_parallel_algo", "ulysses_cp_algo"),
        ("do_sample", True),
        ("do_sample", "True"),
    ],
)
@pytest.mark.parametrize("online", [False, True])
def test_a_key_without_a_choice_is_accepted_silently_and_changes_nothing(key: str, value: Any, online: bool) -> None:
    run, problems, notes = _without_choice(key, value, online)
    unchanged, _, _ = _outcome(online_tree() if online else small_tree())
    assert (problems, notes) == ((), [])
    assert run is not None and unchanged is not None
    assert key not in SETTINGS
    assert run == unchanged


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tokenizer_type", "GPT2BPETokenizer", "only Hugging Face tokenizers are supported"),
        ("distributed_backend", "mpi", "the backend follows from the device"),
        ("context_parallel_algo", "ring", "only Ulysses is implemented"),
        ("do_sample", "maybe", "without sampling"),
    ],
)
def test_another_value_of_a_key_without_a_choice_is_refused(key: str, value: str, reason: str) -> None:
    _, (problem,), _ = _without_choice(key, value)
    assert problem.startswith(f"training.{key}={value} is refused: ") and reason in problem


def test_greedy_responses_are_refused_online_and_reported_offline() -> None:
    _, (problem,), _ = _without_choice("do_sample", False, online=True)
    assert problem.startswith("training.do_sample=false is refused: without sampling")
    run, problems, notes = _without_choice("do_sample", False)
    assert run is not None
    assert (problems, notes) == ((), ["training.do_sample=false has no effect: only ray_online_dpo uses it"])


def test_another_context_parallel_algorithm_is_reported_where_there_is_no_context_parallelism() -> None:
    run, problems, notes = _without_choice("context_parallel_algo", "megatron_cp_algo")
    assert run is not None
    assert (problems, len(notes)) == ((), 1)
    assert notes[0].startswith("training.context_parallel_algo=megatron_cp_algo has no effect")


def test_a_resolved_file_of_an_older_version_still_composes() -> None:
    run = resolved(small_tree())
    tree = run.as_tree()
    actor = tree["actor_rollout_ref"]["actor_rollout"]
    assert not {"tokenizer_type", "distributed_backend", "context_parallel_algo", "do_sample"} & set(actor)
    actor |= {
        "tokenizer_type": "PretrainedFromHF",
        "distributed_backend": "auto",
        "context_parallel_algo": "ulysses_cp_algo",
    }
    again, problems, _ = _outcome(tree)
    assert problems == ()
    assert again is not None and again.actor == run.actor
