"""Layers that predict further tokens: refused by name, and left out where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert_ckpt import FAILURE, main
from mindspeed_dpo.weights import WeightsError, open_weights
from mindspeed_dpo.weights.lora.merged_source import MergedSource
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights
from tests.support.composing import load_quickly
from tests.support.tiny_models import save_tiny_model

OWN = ("eh_proj.weight", "embed_tokens.weight", "enorm.weight", "hnorm.weight", "shared_head.norm.weight")
REFUSAL = (
    r"holds \d+ tensors of layers that predict further tokens \(MTP\): model\.layers\.2\.eh_proj\.weight, .* and \d+ "
    r"more; such layers are not implemented\. Set drop_mtp_layers=true \(convert_ckpt\.py: --drop-mtp-layers\)"
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """GLM-4.5 as it is published: behind the layers of the model one that predicts further tokens, with experts."""
    folder = save_tiny_model("glm4_moe", tmp_path / "published")
    stored = load_file(folder / "model.safetensors")
    layer = {name: tensor for name, tensor in stored.items() if name.startswith("model.layers.1.")}
    stored |= {name.replace("layers.1.", "layers.2."): tensor.clone() for name, tensor in layer.items()}
    stored |= {f"model.layers.2.{name}": torch.ones(2, 2) for name in OWN}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    set_mtp_layers(folder, 1)
    return folder


def set_mtp_layers(folder: Path, count: int) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= dict.fromkeys({"num_mtp_layers", "num_nextn_predict_layers"} & config.keys() or {"num_mtp_layers"}, count)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_they_are_refused_and_left_out_on_request(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_weights(published)
    model = source.model_config()
    with pytest.raises(WeightsError, match=REFUSAL):
        source.check(model)
    source.drop_mtp_layers = True
    assert not any(name.startswith("model.layers.2.") for name in dict(source.hf_tensors(model)))
    assert "model.layers.2.eh_proj.weight" in caplog.text and "they are not read" in caplog.text


def test_loose_weights_may_have_them(published: Path) -> None:
    source = open_weights(published)
    source.loosely = True
    source.check(source.model_config())


def test_base_weights_of_adapters_may_have_them_on_request(published: Path) -> None:
    adapter: Any = SimpleNamespace(has_head=False)
    merged = MergedSource(open_weights(published), adapter)
    model = merged.model_config()
    with pytest.raises(WeightsError, match=REFUSAL):
        merged.name_mismatches(model)
    merged.drop_mtp_layers = True
    assert merged.name_mismatches(model) == ([], [])


def test_layers_that_the_config_does_not_name_are_unexpected(published: Path) -> None:
    set_mtp_layers(published, 0)
    source = open_weights(published)
    source.drop_mtp_layers = True
    with pytest.raises(WeightsError, match=r"tensors are unexpected: model\.layers\.2\."):
        source.check(source.model_config())


@pytest.mark.parametrize("on_the_way", [None, "mg"])
def test_a_conversion_needs_the_flag_and_writes_a_model_without_them(
    on_the_way: str | None, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete = load_file(published / "model.safetensors")
    first = ["--load-dir", str(published), "--save-model-type", on_the_way or "hf", "--save-dir", str(tmp_path / "1")]
    assert main(first) == FAILURE
    assert "drop_mtp_layers" in "".join(capsys.readouterr()) and not (tmp_path / "1").exists()
    assert main([*first, "--drop-mtp-layers"]) == 0
    written = tmp_path / "1"
    if on_the_way:
        written = tmp_path / "2"
        assert main(["--load-dir", str(tmp_path / "1"), "--save-model-type", "hf", "--save-dir", str(written)]) == 0
    result = load_file(written / "model.safetensors")
    assert result.keys() == {name for name in complete if not name.startswith("model.layers.2.")}
    assert all(torch.equal(tensor, complete[name]) for name, tensor in result.items())
    config = json.loads((written / "config.json").read_text(encoding="utf-8"))
    assert {config.get(name, 0) for name in ("num_mtp_layers", "num_nextn_predict_layers")} == {0}
    source = open_weights(written)
    source.check(source.model_config())


def test_a_run_refuses_them_without_the_key(published: Path) -> None:
    overrides = [f"actor_rollout_ref.actor_rollout.load={published}", "training.tokenizer_name_or_path=null"]
    model = open_weights(published).model_config()
    for key, is_accepted in ([], False), (["actor_rollout_ref.actor_rollout.drop_mtp_layers=true"], True):
        run = load_quickly("offline_dpo_trainer_tiny_moe", [*overrides, *key], exists=lambda _: True)
        for role in (run.actor, run.ref):
            if role is None:
                continue
            source = open_initial_weights(role)
            assert source is not None and source.drop_mtp_layers == is_accepted
            if is_accepted:
                source.check(model)
            else:
                with pytest.raises(WeightsError, match=REFUSAL):
                    source.check(model)


@pytest.mark.parametrize("name", ["glm45", "glm45_air"])
@pytest.mark.parametrize("kind", ["offline", "online"])
def test_the_shipped_configurations_take_the_published_folder(kind: str, name: str) -> None:
    run = load_quickly(f"{kind}_dpo_trainer_{name}", exists=lambda _: True)
    roles = [role for role in (run.actor, run.ref) if role is not None]
    assert len(roles) == 2 and all(role.checkpoint.drop_mtp_layers for role in roles)
