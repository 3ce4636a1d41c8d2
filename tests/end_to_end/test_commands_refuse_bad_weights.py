"""`convert_ckpt.py` and weights it cannot use: a sentence, an exit code, and nothing where the result would lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import convert_ckpt
from tests.support.commands import call, command
from tests.support.conversions import to_mcore_arguments
from tests.support.damaged_files import change_config, lose_second_shard, lose_weights, shorten
from tests.support.tiny_models import save_tiny_model


class Bad(NamedTuple):
    """What happens to the folder, flags that differ, and words of the error message."""

    damage: Callable[[Path], object] | None
    flags: dict[str, str | int]
    words: tuple[str, ...]


BAD = {
    "unknown family": Bad(None, {"model-type-hf": "llamma2"}, ("llamma2 is not supported", "did you mean llama2")),
    "unknown family in config.json": Bad(
        change_config(model_type="gptneox"), {}, ("gptneox", "not supported", "qwen2")
    ),
    "no weights": Bad(lose_weights, {}, ("holds no model.safetensors", "is the download complete")),
    "missing shard": Bad(lose_second_shard, {}, ("lacks model-00002-of-00002.safetensors", "download it again")),
    "truncated weights": Bad(lambda hf: shorten(hf / "model.safetensors"), {}, ("damaged or truncated",)),
    "sizes that do not fit": Bad(change_config(hidden_size=64), {}, ("embed_tokens.weight is [93, 32]", "[93, 64]")),
    "indivisible tensor parallel size": Bad(
        None, {"target-tensor-parallel-size": 3}, ("tensor-parallel size 3 does not divide num_query_groups=4",)
    ),
    "indivisible pipeline parallel size": Bad(
        None, {"target-pipeline-parallel-size": 3}, ("3 pipeline stages do not divide 4 layers", "1, 2")
    ),
    "no such folder": Bad(None, {"load-dir": "nowhere"}, ("nowhere does not exist",)),
    "unknown flag": Bad(None, {"target-tensor-paralel-size": 2}, ("target-tensor-paralel-size", "did you mean")),
}


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[[Bad], list[str]]:
    """Makes a folder of weights, damages it, and gives the flags."""

    def prepare(bad: Bad) -> list[str]:
        folder = save_tiny_model("llama", tmp_path / "hf")
        if bad.damage is not None:
            bad.damage(folder)
        return [*to_mcore_arguments(folder, tmp_path / "mcore"), *(f"--{k}={v}" for k, v in bad.flags.items())]

    return prepare


@pytest.mark.parametrize("name", BAD)
def test_weights_that_cannot_be_used_are_refused(
    name: str, arguments: Callable[[Bad], list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finished = call(convert_ckpt.main, arguments(BAD[name]), capfd)
    assert finished.code in (1, 2), finished
    assert [word for word in BAD[name].words if word not in finished.text] == [], finished.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


@pytest.mark.slow
def test_the_shell_gets_the_sentence_and_the_exit_code(arguments: Callable[[Bad], list[str]], tmp_path: Path) -> None:
    finished = command("convert_ckpt.py", *arguments(BAD["truncated weights"]))
    assert finished.code == 1
    assert finished.text.splitlines()[-1].startswith("convert_ckpt.py: ") and "damaged" in finished.text
    assert "Traceback" not in finished.text
