"""The result of a run for use elsewhere: its folder, its model card, and what stops it before a device is taken."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.export import export_result as export
from mindspeed_dpo.trainers.export.model_card import CARD_FILE, model_card, read_last_metrics
from mindspeed_dpo.trainers.last_line import last_line
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.errors import WeightsError
from tests.unit.trainers.saved_runs import asking
from tests.unit.workers.pairs import random_run


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    run = asking(random_run(tmp_path), export_hf=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n{"step": 2, "loss": 0.5, "eval/loss": 0.25}\n')
    return replace(run, loop=replace(run.loop, output_dir=str(tmp_path)))


def front_matter(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_a_card_names_base_data_metrics_and_settings_and_no_path_of_the_machine(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, actor=replace(run.actor, checkpoint=replace(run.actor.checkpoint, load="/secret/models/qwen")))
    card = model_card(run, 2, read_last_metrics(tmp_path))
    assert front_matter(card) == {
        "base_model": "qwen",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mindspeed_dpo", "dpo"],
    }
    assert "| steps | 2 |" in card and "| loss | 0.5 |" in card and "| eval/loss | 0.25 |" in card
    assert f"| lr | {run.actor.optimizer.lr:g} |" in card or f"| lr | {run.actor.optimizer.lr} |" in card
    assert "/secret" not in card and str(tmp_path) not in card


def test_cards_of_adapters_and_of_reward_models_say_so(run: RunConfig) -> None:
    adapters = replace(
        run, actor=replace(run.actor, adapters=replace(run.actor.adapters, lora_target_modules=("q_proj",)))
    )
    assert front_matter(model_card(adapters, 2, {}))["library_name"] == "peft"
    reward = replace(run, loop=replace(run.loop, stage="rm"), actor=replace(run.actor, has_score_head=True))
    assert front_matter(model_card(reward, 2, {}))["pipeline_tag"] == "text-classification"


@pytest.mark.parametrize(("modules", "folder"), [((), "hf"), (("q_proj",), "adapter")])
def test_the_last_checkpoint_is_converted_into_the_folder_of_its_kind(
    modules: tuple[str, ...], folder: str, run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[ConversionRequest] = []
    monkeypatch.setattr(export, "convert", lambda request: [requests.append(request), request.save_dir.mkdir()])
    run = replace(run, actor=replace(run.actor, adapters=replace(run.actor.adapters, lora_target_modules=modules)))
    (tmp_path / folder / "of_an_earlier_run").mkdir(parents=True)
    target = export.export_result(run, 2)
    assert not (tmp_path / folder / "of_an_earlier_run").exists() and not [*tmp_path.glob(".*")]
    assert target == tmp_path / folder and (tmp_path / folder / CARD_FILE).is_file()
    (request,) = requests
    assert request.load_dir == Path(run.actor.checkpoint.save) and request.adapter_only == bool(modules)
    assert str(target) in last_line(run, 2, True, target)
    assert export.export_result(asking(run, export_hf=False), 2) is None


def test_a_result_that_cannot_be_written_names_the_checkpoint_from_which_it_can_be(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "convert", lambda request: request.save_dir.mkdir())
    monkeypatch.setattr(export, "write_text_atomically", full_disk)
    said = (
        rf"last checkpoint is in {run.actor.checkpoint.save}, but .*{tmp_path}/hf cannot be written: No space left on"
    )
    with pytest.raises(WeightsError, match=said):
        export.export_result(run, 2)


def full_disk(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_result_without_a_config_is_refused_before_the_run(run: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"export_hf=true needs a config\.json"):
        export.check_export(run)
    export.check_export(asking(run, export_hf=False))


def test_metrics_that_are_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\nnothing\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_last_metrics(tmp_path)
