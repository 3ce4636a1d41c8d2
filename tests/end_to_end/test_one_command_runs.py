"""From a model folder and raw pairs to a trained model: the commands that a user types are counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mindspeed_dpo.commands.entry import main
from tests.support.commands import Finished, call, run_here, succeed

pytestmark = pytest.mark.distributed


@dataclass(frozen=True)
class OneCommand:
    """What a user has, and the one command that trains on it: `OneCommand(folder, ["model=…", "data=…"], trained)`."""

    folder: Path
    own: list[str]
    trained: Finished


@pytest.fixture(scope="module")
def one_command(tmp_path_factory: pytest.TempPathFactory) -> OneCommand:
    folder = tmp_path_factory.mktemp("one_command")
    run_here("examples/tiny/make_model.py", folder / "model")
    run_here("examples/tiny/make_preferences.py", folder / "pairs.jsonl")
    where = [f"token_cache_dir={folder}/tokens", f"reference_cache_dir={folder}/reference"]
    own = [f"model={folder}/model", f"data={folder}/pairs.jsonl", *where]
    return OneCommand(folder, own, succeed("ray_gpt.py", *own, f"output_dir={folder}/run", "train_iters=2", "lr=1e-3"))


def test_one_command_makes_a_trained_hugging_face_folder(one_command: OneCommand) -> None:
    result, printed = one_command.folder / "run" / "hf", one_command.trained.text
    trained, base = (AutoModelForCausalLM.from_pretrained(path) for path in (result, one_command.folder / "model"))
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), base.parameters(), strict=True))
    records = [json.loads(line) for line in (one_command.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert f"| loss | {records[-1]['loss']:.6g} |" in (result / "README.md").read_text()
    assert "AlpacaStylePairwiseHandler" in printed and f"the model is in {result}" in printed


def test_the_reference_is_computed_for_the_pairs_that_the_run_reads(one_command: OneCommand) -> None:
    printed = one_command.trained.text
    assert "computing reference log-probabilities of 64 pairs" in printed, "2 steps of 32 of 320 pairs"


def test_adapters_and_evaluation_are_one_command_too_and_its_tokens_are_those_of_the_first(
    one_command: OneCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = one_command.folder
    held_out = folder / "held_out.jsonl"
    held_out.write_text("".join((folder / "pairs.jsonl").read_text().splitlines(keepends=True)[:20]))
    planned = call(
        main, ["plan", *one_command.own, f"eval={held_out}", "lora=16", f"output_dir={folder}/adapters"], capsys
    )
    assert planned.code == 0, planned.text
    for words in ("made by an earlier run", "layout: auto chose", "eval given", "lora_r", "all checks passed"):
        assert words in planned.text, words
