"""The command `mindspeed-dpo migrate`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindspeed_dpo.commands.entry import main
from mindspeed_dpo.config.load import load_run
from tests.unit.migration.foreign_files import TRL, script


def test_the_written_file_is_loaded_as_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "dpo.sh", tmp_path / "mine.yaml"
    source.write_text(script("--frobnicate 3"))
    assert main(["migrate", str(source), "--output", str(output)]) == 0
    report = capsys.readouterr().err
    assert "MindSpeed-LLM script" in report and "frobnicate=3: it is not known" in report
    assert f"plan --config-dir {tmp_path} --config-name mine" in report
    overrides = [f"training.output_dir={tmp_path}/out", f"actor_rollout_ref.actor_rollout.save={tmp_path}/save"]
    run = load_run("mine", overrides, tmp_path, exists=lambda path: True)
    assert run.actor.optimizer.lr == 1.25e-6 and run.actor.parallel.tensor_model_parallel_size == 2
    assert main(["migrate", str(source), "--output", str(output)]) == 1
    assert "exists; choose another name" in capsys.readouterr().err
    assert main(["migrate", str(source), "--output", str(output), "--force"]) == 0


def test_an_incomplete_file_is_printed_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "dpo.sh"
    source.write_text(TRL)
    assert main(["migrate", str(source)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith('# Converted from "dpo.sh" (TRL command line).')
    source.write_text(TRL.replace("--num_processes 4", ""))
    assert main(["migrate", str(source)]) == 0
    assert "one is assumed; use --devices" in " ".join(capsys.readouterr().err.split())
    source.write_text(TRL.replace("Qwen/Qwen2.5-7B-Instruct", "org/unknown"))
    assert main(["migrate", str(source)]) == 3
    assert "the architecture of org/unknown is not known" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments", [["--rows", "0", "x"], ["--devices", "8,x", "x"], ["--model", "nonsense", "x"], []]
)
def test_wrong_command_lines_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["migrate", *arguments])
    assert exit_.value.code == 2 and "usage" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", str(tmp_path / "none.sh")]) == 1
    assert "none.sh" in capsys.readouterr().err
