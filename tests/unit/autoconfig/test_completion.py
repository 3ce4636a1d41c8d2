"""What a configuration leaves to its files: architecture, steps of epochs, layout; contradictions are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.autoconfig.complete import completed
from mindspeed_dpo.autoconfig.layout import explain
from mindspeed_dpo.autoconfig.layout_candidates import LayoutCandidate
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import check, load_run
from mindspeed_dpo.config.loading.compose import ComposedConfig, compose
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.device.available_devices import assumed_memory_gib, num_devices
from mindspeed_dpo.trainers.run_inputs import check_weights
from mindspeed_dpo.weights.hf.hf_config import read_model_config
from tests.unit.autoconfig.quick_inputs import model_folder
from tests.unit.workers.pairs import PAIRS, write_pairs

QWEN = "offline_dpo_trainer_qwen3_8b"
LAYOUT_KEYS = (
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "sequence_parallel"),
    *("recompute_granularity", "recompute_method", "recompute_num_layers"),
)


def tree(**training: Any) -> dict[str, Any]:
    actor = {"load": str(model_folder()), "lr": "1e-6", "data_path": "pairs"}
    return {
        "training": {"stage": "dpo", "train_iters": "3", "global_batch_size": "2", "seq_length": "64", **training},
        "actor_rollout_ref": {"actor_rollout": actor},
        "resource_pool": {"actor_rollout": ["1"]},
    }


def config(values: dict[str, Any]) -> ComposedConfig:
    return ComposedConfig("mine", values, {})


def run_of(composed: ComposedConfig) -> RunConfig:
    return check(completed(composed, lambda path: True), exists=lambda path: True)


def test_without_a_model_file_the_architecture_is_that_of_the_weights() -> None:
    assert run_of(config(tree())).actor.model == read_model_config(model_folder())


def test_a_model_file_that_contradicts_the_weights_is_told() -> None:
    overrides = ["model.tiny.norm_epsilon=1e-3", f"actor_rollout_ref.actor_rollout.load={model_folder()}"]
    run = check(compose("offline_dpo_trainer_tiny", overrides), exists=lambda path: True)
    with pytest.raises(ValueError, match=r"differs from the model section.*norm_epsilon"):
        check_weights(run.actor)


def test_weights_that_do_not_describe_a_model_are_a_problem(tmp_path: Path) -> None:
    values = tree()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    values["actor_rollout_ref"]["actor_rollout"]["load"] = str(tmp_path)
    with pytest.raises(ConfigError, match="gpt2"):
        completed(config(values))


def test_a_converted_model_knows_its_architecture(tmp_path: Path) -> None:
    from tests.support.conversions import convert_to_mcore

    values = tree()
    weights = convert_to_mcore(model_folder(), tmp_path / "mcore", (1, 1, 1))
    values["actor_rollout_ref"]["actor_rollout"]["load"] = str(weights)
    assert run_of(config(values)).actor.model.num_layers == 2


@pytest.mark.parametrize(("epochs", "steps"), [("1", 3), ("2", 5), ("0.1", 1), ("3.0", 8)])
def test_epochs_are_steps_that_read_every_row(epochs: str, steps: int, tmp_path: Path) -> None:
    values = tree(num_train_epochs=epochs)
    del values["training"]["train_iters"]
    values["actor_rollout_ref"]["actor_rollout"]["data_path"] = str(write_pairs(tmp_path / "pairs"))
    assert len(PAIRS) == 5
    run = run_of(config(values))
    assert run.loop.train_iters == run.actor.optimizer.lr_decay_iters == steps
    assert run.loop.num_train_epochs is None and "num_train_epochs" in run.origins["loop.train_iters"].source


def test_both_lengths_exclude_each_other_and_one_is_needed() -> None:
    with pytest.raises(ConfigError, match="train_iters and num_train_epochs exclude each other"):
        run_of(config(tree(num_train_epochs="1")))
    values = tree()
    del values["training"]["train_iters"]
    with pytest.raises(ConfigError, match="train_iters is missing: set it, or num_train_epochs"):
        run_of(config(values))


def test_epochs_of_data_that_cannot_be_read_stop_before_a_step_count_is_made_up(tmp_path: Path) -> None:
    values = tree(num_train_epochs="1")
    del values["training"]["train_iters"]
    with pytest.raises(ConfigError, match="cannot be counted"):
        completed(config(values), lambda path: True)
    with pytest.raises(ConfigError, match="has no file"):
        completed(config(values), lambda path: path == str(model_folder()))


def test_code_that_loads_a_run_is_told_what_replaces_them() -> None:
    for key, value in (("num_train_epochs", "1"), ("layout", "auto")):
        words = [f"training.{key}={value}", *(["training.train_iters=null"] if key != "layout" else [])]
        with pytest.raises(ConfigError, match=f"training.{key}={value}.*autoconfig.complete.completed"):
            load_run("offline_dpo_trainer_tiny", words, exists=lambda path: True)


def chosen(devices: int, gib: float, *words: str, name: str = QWEN) -> RunConfig:
    actor = "actor_rollout_ref.actor_rollout"
    absent = [f"~{actor}.{key}" for key in LAYOUT_KEYS]
    given = ["training.layout=auto", f"training.device_memory_gib={gib}", f"resource_pool.actor_rollout=[{devices}]"]
    return run_of(compose(name, [*absent, *given, *words]))


def sizes(run: RunConfig) -> tuple[int, int, bool]:
    parallel = run.actor.parallel
    is_full = run.actor.recompute.recompute_granularity == "full"
    return parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size, is_full


def test_more_memory_needs_less_division() -> None:
    large, small = chosen(8, 10_000), chosen(8, 64)
    assert sizes(large) == (1, 1, False), "with room for all, data parallelism alone is fastest"
    assert sizes(small)[0] * sizes(small)[1] > 1
    assert any(note.startswith("layout: auto chose TP 1, PP 1, DP 8") for note in large.notes)
    assert sum("could also use" in note for note in small.notes) == 2
    assert any("which fits" in note for note in small.notes)


def test_adapters_need_less_than_all_weights() -> None:
    full, adapters = chosen(8, 64), chosen(8, 64, "actor_rollout_ref.actor_rollout.lora_target_modules=[all-linear]")
    assert sizes(adapters)[0] * sizes(adapters)[1] < sizes(full)[0] * sizes(full)[1]


def test_what_fits_nowhere_is_told() -> None:
    assert any("does not fit; use more devices" in note for note in chosen(8, 4).notes)


def test_sizes_that_are_set_are_kept() -> None:
    run = run_of(compose(QWEN, ["training.layout=auto"]))
    assert sizes(run) == (4, 1, True)
    assert any(note.startswith("layout=auto has no effect: tensor_model_parallel_size") for note in run.notes)


def test_alternatives_differ_and_say_what_they_cost() -> None:
    best = LayoutCandidate(1, 1, 1, 8, False, 100, 1.0)
    others = [LayoutCandidate(2, 1, 1, 4, False, 80, 1.06), LayoutCandidate(1, 1, 1, 8, True, 60, 4 / 3)]
    notes = explain([best, *others], chosen(8, 10_000), limit=90)
    assert len(notes) == 3 and "+6%" in notes[1] and "+33%" in notes[2] and "too much" not in notes[1]
    assert "does not fit" in notes[0]
    assert "too much" in explain([others[1], best], chosen(8, 10_000), limit=90)[1]


@pytest.mark.parametrize(
    ("kind", "visible", "count"), [("npu", None, 3), ("npu", "0,2", 2), ("npu", "", 1), ("cpu", None, 1)]
)
def test_devices_are_counted_without_occupying_one(kind: str, visible: str | None, count: int, tmp_path: Path) -> None:
    for name in ("davinci0", "davinci1", "davinci2", "davinci_manager", "nvidia0"):
        (tmp_path / name).touch()
    environment = {} if visible is None else {"ASCEND_RT_VISIBLE_DEVICES": visible}
    assert num_devices(kind, environment, tmp_path) == count
    assert assumed_memory_gib("npu", 8) == 64 and assumed_memory_gib("cpu", 2) < assumed_memory_gib("cpu", 1)


def test_a_complete_configuration_is_returned_as_it_is() -> None:
    composed = compose(QWEN)
    assert completed(composed) == composed
