"""Names, folders and overrides; and that composing leaves the process as it was."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.config.loading.compose import SHIPPED_CONFIGS, available_configs, compose
from mindspeed_dpo.config.loading.value_parsing import parse_value
from mindspeed_dpo.config.settings.registry import SETTINGS

TINY = "offline_dpo_trainer_tiny"


def _anything(path: str) -> bool:
    return True


def _problems(name: str, *overrides: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_run(name, overrides, exists=_anything, **options)
    return caught.value.problems


@pytest.mark.parametrize("name", available_configs())
def test_every_shipped_configuration_has_no_problems(name: str) -> None:
    run = load_run(name, exists=_anything)
    assert run.name == name
    assert run.notes == ()


def test_the_promised_configurations_are_shipped() -> None:
    models = ("tiny", "tiny_moe", "llama32_1b", "llama3_8b", "qwen25_7b", "qwen3_30b_a3b", "qwen3_235b_a22b")
    models += ("mixtral_8x7b", "qwen15_moe_a27b", "qwen2_57b_a14b", "glm45_air", "glm45")
    promised = {f"{stage}_dpo_trainer_{model}" for stage in ("offline", "online") for model in models}
    reward_models = ("tiny", "llama32_1b", "qwen25_7b", "qwen3_8b", "qwen3_30b_a3b")
    promised |= {"offline_dpo_trainer_qwen3_8b", *(f"reward_model_trainer_{model}" for model in reward_models)}
    assert promised == set(available_configs())


@pytest.mark.parametrize("model", sorted(path.stem for path in (SHIPPED_CONFIGS.parent / "model").glob("*.yaml")))
def test_every_shipped_model_trains(model: str) -> None:
    run = load_run(TINY, [f"model=[{model}]", f"actor_rollout_ref.actor_rollout.model={model}"], exists=_anything)
    assert run.actor.model.as_dict() == run.actor.model.from_dict(run.actor.model.as_dict()).as_dict()
    assert run.actor.model.padded_vocab(2) % 2 == 0


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.split=98,1,1", "split", "98,1,1"),
        ("+training.split='98,1,1'", "split", "98,1,1"),
        ("++training.weight_decay=0.5", "weight_decay", 0.0),
        ("actor_rollout_ref.actor_rollout.weight-decay=0.5", "weight_decay", 0.5),
        ("actor_rollout_ref.actor_rollout.lr=1e-7", "lr", 1e-7),
        ("training.resume_from=outputs/a b", "resume_from", "outputs/a b"),
        ("training.bf16=True", "bf16", True),
        ("model.tiny.init_method_std=0.5", "init_method_std", 0.5),
        ("~training.eval_interval", "seed", 42),
    ],
)
def test_an_override_sets_any_key(override: str, key: str, value: Any) -> None:
    run = load_run(TINY, [override], exists=_anything)
    assert {**vars(run.loop), **run.actor.settings()}[key] == value


@pytest.mark.parametrize(("written", "override"), [("min-lr", "min_lr"), ("min_lr", "min-lr")])
def test_an_override_replaces_what_the_file_spells_otherwise(tmp_path: Path, written: str, override: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"training:\n  {written}: 1e-5\n")
    tree = compose("mine", [f"training.{override}=1e-6"], tmp_path).tree
    assert tree["training"] == {override: "1e-6"}


def test_an_unknown_override_is_a_problem_with_a_hint() -> None:
    assert _problems(TINY, "training.trian_iters=4") == (
        "training.trian_iters is not a known key; did you mean train_iters (section training)?",
    )
    assert _problems(TINY, "trainin.lr=4") == ("trainin is not a known section; did you mean training?",)


def test_overrides_that_cannot_be_read_come_in_one_list() -> None:
    actual = _problems(TINY, "foo", "bar")
    assert [problem.split(" cannot be read")[0] for problem in actual] == ["override foo", "override bar"]


def test_unknown_names_suggest_the_nearest() -> None:
    assert _problems("offline_dpo_trainer_tinny") == (
        f"--config-name offline_dpo_trainer_tinny: there is no such configuration; did you mean {TINY}?",
    )
    (actual,) = _problems(TINY, "model=[tinny]")
    assert "there is no file model/tinny.yaml; choose glm45, " in actual
    (actual,) = _problems(TINY, config_dir="no/such/folder")
    assert actual == "--config-dir no/such/folder: there is no such folder"


def test_the_ending_may_be_written() -> None:
    assert compose(f"{TINY}.yaml").name == TINY


def test_a_folder_of_ones_own_comes_first_and_sees_the_shipped_models(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - model: [tiny]\ntraining: {lr: 1e-7}\n")
    tree = compose("mine", config_dir=tmp_path).tree
    assert tree["model"]["tiny"]["hidden_size"] == "64"
    assert tree["training"]["lr"] == "1e-7"
    assert compose(TINY, config_dir=tmp_path).tree == compose(TINY).tree


@pytest.mark.parametrize("where", ["rlxf/model", "model"])
def test_models_beside_or_above_the_configuration_are_loaded(tmp_path: Path, where: str) -> None:
    (tmp_path / where).mkdir(parents=True)
    (tmp_path / where / "odd.yaml").write_text("odd: {num_layers: 7}\n")
    (tmp_path / "rlxf").mkdir(exist_ok=True)
    (tmp_path / "rlxf" / "mine.yaml").write_text("defaults:\n  - model: [odd]\n")
    assert compose("mine", config_dir=tmp_path / "rlxf").tree["model"]["odd"]["num_layers"] == "7"


@pytest.mark.parametrize("entry", ["1" + "0" * 290, f"model: {'m' * 300}", f"sub/{'é' * 200}"])
def test_a_default_with_a_name_that_no_file_has_is_refused(entry: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"defaults:\n  - {entry}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="defaults must hold"):
        compose("mine", [], tmp_path)


def test_a_file_wins_over_the_model_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - model: [tiny]\nmodel: {tiny: {num_layers: 8}}\n")
    model = compose("mine", config_dir=tmp_path).tree["model"]["tiny"]
    assert (model["num_layers"], model["hidden_size"]) == ("8", "64")


@pytest.mark.parametrize(
    "text", ["training: [", "training: ${nowhere}\n", "training:\n  lr: ${\n", "- a\n", "training: {lr: ???}\n"]
)
def test_a_file_that_cannot_be_read_is_one_problem_naming_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    (actual,) = _problems("broken", config_dir=tmp_path)
    assert "broken.yaml" in actual and not actual.endswith(": ")
    assert "\n" not in actual


def test_composing_leaves_folder_loggers_and_disk_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    load_run(TINY, exists=_anything)
    assert (list(root.handlers), root.level) == before
    assert Path(os.getcwd()) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_origin_of_a_value_is_the_override_as_typed() -> None:
    run = load_run(TINY, ["training.train_iters=5"], exists=_anything)
    assert run.origins["loop.train_iters"].source == "override training.train_iters=5"
    assert run.origins["actor.lr"].source == f"{TINY}.yaml"
    assert run.origins["actor.hidden_size"].source == "model/tiny.yaml"


AS_TYPED = [
    "2026_11_30",
    "1.10",
    "1e5",
    "on",
    "off",
    "Yes",
    "True",
    "none",
    "nullify",
    "0x10",
    "1_000",
    "01",
    "1:30",
    "-3",
]


@pytest.mark.parametrize("text", AS_TYPED)
@pytest.mark.parametrize("way", ["override", "file", "interpolation", "quoted", "default", "environment", "decoded"])
def test_a_text_stays_as_typed(text: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AS_TYPED", text)
    written = {
        "override": "other", "interpolation": "${training.save}", "quoted": f"'{text}'",
        "default": f"${{oc.env:NO_SUCH_VARIABLE,{text}}}", "environment": "${oc.env:AS_TYPED}",
        "decoded": "${oc.decode:${oc.env:AS_TYPED}}",
    }.get(way, text)  # fmt: skip
    (tmp_path / "mine.yaml").write_text(f"training:\n  output_dir: {written}\n  save: {text}\n")
    tree = compose("mine", [f"training.output_dir={text}"] if way == "override" else [], tmp_path).tree
    assert parse_value(tree["training"]["output_dir"], SETTINGS["output_dir"]) == text


def test_texts_in_lists_and_joined_texts_stay_as_typed(tmp_path: Path) -> None:
    text = (
        "training:\n  a: 1.10\n  b: run_${training.a}/${training.c}\n  c: 01\n  d: [1_0, {e: 0x1}]\n  f: null\n  g: ~\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    overrides = ["training.h=[1.50,{i: 2_0},null]", "training.j=${training.a}"]
    tree = compose("mine", overrides, config_dir=tmp_path).tree
    assert tree["training"] == {
        "a": "1.10", "b": "run_1.10/01", "c": "01", "d": ["1_0", {"e": "0x1"}], "f": None, "g": None,
        "h": ["1.50", {"i": "2_0"}, None], "j": "1.10",
    }  # fmt: skip


def test_arguments_of_every_resolver_stay_as_typed(tmp_path: Path) -> None:
    text = (
        "training:\n  a: ${oc.select:nothing,1.10}\n  b: '${oc.create:[1e5,{x: 1_0, 0x1: on, y: null}]}'\n"
        "  c: ${oc.dict.values:training.d}\n  d: {x: 1.50}\n  e: ${oc.env:NO_SUCH_VARIABLE,null}\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    overrides = ["training.f=${oc.env:NO_SUCH_VARIABLE,1e5}", "training.g=[${oc.env:NO_SUCH_VARIABLE,-01.0}/x]"]
    tree = compose("mine", overrides, config_dir=tmp_path).tree
    assert tree["training"] == {
        "a": "1.10", "b": ["1e5", {"x": "1_0", "0x1": "on", "y": None}], "c": ["1.50"], "d": {"x": "1.50"}, "e": None,
        "f": "1e5", "g": ["-01.0/x"],
    }  # fmt: skip


def test_numbers_and_truth_values_are_read_where_they_are_declared(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"defaults: [{TINY}, _self_]\n"
        "training: {train_iters: 1_0, seed: 0x10, tensorboard: off}\n"
        "actor_rollout_ref: {actor_rollout: {lr: 1e-7}}\n"
        "resource_pool: {actor_rollout: [2]}\n"
    )
    run = load_run("mine", ["training.log_interval=1e1"], tmp_path, exists=_anything)
    assert (run.loop.train_iters, run.loop.seed, run.loop.log_interval, run.actor.optimizer.lr) == (10, 16, 10, 1e-7)
    assert run.loop.tensorboard is False and run.pools["actor_rollout"] == (2,)


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "training: {lr: 1, lr: 2}\n"])
def test_a_key_that_is_twice_in_a_file_is_a_problem(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    (found,) = _problems("mine", config_dir=tmp_path)
    assert str(tmp_path / "mine.yaml") in found and "is twice" in found


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("~/x", "~/x"),
        ("~/x,~/y", "~/x,~/y"),
        ("[~/x,'~/y',1.0]", ["~/x", "~/y", "1.0"]),
        ("{k: ~/z}", {"k": "~/z"}),
        ("datä/x", "datä/x"),
        ("a#b;c", "a#b;c"),
        ("'~'", "~"),
        ("10.0.0.1:6379", "10.0.0.1:6379"),
        ("it's~", "it's~"),
    ],
)
def test_an_override_may_hold_any_character(value: str, read: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training: {}\n")
    assert compose("mine", [f"training.a={value}"], tmp_path).tree["training"] == {"a": read}


def test_the_home_folder_is_meant_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    paths = [key for key, item in SETTINGS.items() if item.info.is_path]
    assert {"output_dir", "load", "save", "data_path", "reference_cache_dir", "resume_from"} <= set(paths)
    for key in paths:
        value = parse_value("~/a b", SETTINGS[key])
        assert (value if isinstance(value, str) else value["given"]) == "/home/somebody/a b"
    assert parse_value("0.5,~/a, 0.5,~/b", SETTINGS["data_path"]) == "0.5,/home/somebody/a, 0.5,/home/somebody/b"
    assert parse_value({"x": "~/a", "y": "b~"}, SETTINGS["eval_data_path"]) == {"x": "/home/somebody/a", "y": "b~"}


def test_every_setting_that_names_a_path_is_marked() -> None:
    words = ("path", "dir", "load", "save", "folder", "resume_from", "tokenizer")
    named = {key for key, item in SETTINGS.items() if any(key.split("_")[-1] == word for word in words)}
    named = {key for key in named if SETTINGS[key].type in (str, str | None)}
    assert {key for key in named if not SETTINGS[key].info.is_path} == set()
