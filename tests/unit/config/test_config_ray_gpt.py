"""The command line: what it prints, what it returns, and that nothing starts on a bad configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import ray_gpt
from mindspeed_dpo.commands import train
from mindspeed_dpo.config.loading.compose import available_configs
from mindspeed_dpo.config.run import RunConfig
from tests.unit.workers.pairs import PAIRS, write_pairs

TINY = "offline_dpo_trainer_tiny"
PATHS = [
    "actor_rollout_ref.actor_rollout.load=.",
    "training.tokenizer_name_or_path=.",
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The runs handed to a stand-in for the trainers, which returns exit code 7."""
    runs: list[RunConfig] = []
    stand_in = ModuleType("mindspeed_dpo.trainers.build")
    stand_in.train = lambda run: runs.append(run) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return runs


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The runs whose start was to be checked, by a stand-in that returns exit code 5."""
    runs: list[RunConfig] = []
    stand_in = ModuleType("mindspeed_dpo.trainers.start_checks")
    stand_in.report_start = lambda run: runs.append(run) or 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return runs


def test_a_valid_configuration_is_run_and_its_exit_code_returned(
    started: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train.check.__kwdefaults__, "exists", lambda path: True)
    assert ray_gpt.main(["--config-name", TINY, "training.train_iters=3"]) == 7
    assert [run.loop.train_iters for run in started] == [3]


def test_problems_are_listed_and_nothing_starts(started: list[RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = "actor_rollout_ref.actor_rollout.data_path=./nowhere/pairs"
    assert ray_gpt.main(["training.lr=x", "--config-name", TINY, "training.beta=2", *PATHS, nowhere]) == 2
    printed = capsys.readouterr().err
    assert "error: 3 problems in the configuration" in printed
    assert "  - training.lr=x must be a number" in printed
    assert "  - training.beta is not a known key; did you mean dpo_beta" in printed
    assert "pairs_packed_chosen_input_ids_document.bin" in printed
    assert started == []


def test_without_a_name_the_configurations_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ray_gpt.main([]) == 2
    assert f"  - {TINY}" in capsys.readouterr().err


def test_checking_a_configuration_needs_no_torch() -> None:
    code = (
        "import sys, ray_gpt; code = ray_gpt.main(['--config-name', 'nothing']); "
        "sys.exit(code if not {'torch', 'ray', 'megatron'} & set(sys.modules) else 99)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 2


@pytest.mark.parametrize("name", available_configs())
def test_a_plan_is_printed_even_where_paths_are_missing_and_these_are_listed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ray_gpt.main(["--config-name", name, "--plan"]) == 2
    printed = capsys.readouterr()
    for words in ("training", "model of actor", "roles", "a step", "memory of a device, estimated", "epochs  unknown"):
        assert f"\n{words}" in printed.out or f"  {words}" in printed.out, words
    assert "does not exist" in printed.err and "_packed_" in printed.err
    assert list(tmp_path.iterdir()) == []


def line_of(text: str, key: str) -> list[str]:
    (line,) = [line.split() for line in text.splitlines() if line.split()[:1] == [key]]
    return line[1:]


def test_a_plan_shows_origins_of_values_and_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checked: list[RunConfig]
) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    given = [*PATHS, f"actor_rollout_ref.actor_rollout.data_path={pairs}", "training.train_iters=10"]
    given += ["training.split=100,0,0", "training.eval_interval=0", "+plan=true"]
    assert ray_gpt.main(["--config-name", TINY, *given]) == 5
    printed = capsys.readouterr().out
    assert line_of(printed, "lr_decay_style") == ["cosine", f"{TINY}.yaml"]
    assert line_of(printed, "train_iters") == ["10", "override"]
    assert line_of(printed, "adam_beta1") == ["0.9", "default"]
    assert line_of(printed, "lr_decay_iters") == ["10", "derived:", "train_iters"]
    assert line_of(printed, "hidden_size") == ["64", "model/tiny.yaml"]
    assert line_of(printed, "data")[:5] == f"{len(PAIRS)} of {len(PAIRS)} rows used".split()
    assert line_of(printed, "epochs")[0] == f"{10 * 8 / len(PAIRS):.4g}"
    assert [run.loop.train_iters for run in checked] == [10]


def test_a_plan_imports_no_torch_until_it_is_printed_and_no_megatron() -> None:
    code = (
        "import sys, ray_gpt, mindspeed_dpo.trainers.dry_run; early = {'torch', 'ray'} & set(sys.modules); "
        "import mindspeed_dpo.trainers.start_checks; sys.exit(99 if early or 'megatron' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_what_has_no_effect_is_part_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    ray_gpt.main(["--config-name", TINY, "plan=true", "training.num_workers=3"])
    assert "training.num_workers=3 has no effect" in capsys.readouterr().out


def test_problems_between_settings_leave_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["training.global_batch_size=7", "actor_rollout_ref.actor_rollout.load=absent/weights"]
    assert ray_gpt.main(["--config-name", TINY, "plan=true", *overrides]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "global_batch_size=7" in printed.err and "does not exist" in printed.err


def test_a_plan_that_is_switched_off_runs(started: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.check.__kwdefaults__, "exists", lambda path: True)
    assert ray_gpt.main(["--config-name", TINY, "plan=false"]) == 7
    assert len(started) == 1


def test_plan_must_be_true_or_false(capsys: pytest.CaptureFixture[str]) -> None:
    assert ray_gpt.main(["--config-name", TINY, "plan=maybe"]) == 2
    assert "plan=maybe must be true or false" in capsys.readouterr().err


def test_each_role_has_its_own_sources(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["reward.load=rm", "reward.model=tiny", "reward.reward_functions=[]", "reward.offload=true"]
    ray_gpt.main(["--config-name", "online_dpo_trainer_tiny", "--plan", *given])
    _, reward = capsys.readouterr().out.split("\nreward\n")
    assert line_of(reward, "micro_batch_size")[0] == "1"
    assert line_of(reward, "offload") == ["true", "override"]


def test_notes_are_complete_on_a_pipe_and_one_short_block_on_a_terminal() -> None:
    notes = [f"actor_rollout.key_{number} has no effect: {'a long reason ' * 10}" for number in range(7)]
    assert train.note_lines(notes, None) == [f"note: {note}" for note in notes]
    block = train.note_lines(notes, 80)
    assert block[0].startswith("7 notes on the configuration") and block[-1] == "  - and 3 more"
    assert len(block) == 2 + train.MAX_NOTES and max(map(len, block)) <= 80
    assert block[1].startswith("  - actor_rollout.key_0 has no effect: a long") and block[1].endswith("…")
    assert train.note_lines([], 80) == [] and len(train.note_lines(notes[:1], 80)) == 2


def test_a_plan_begins_with_roles_and_memory_and_fits_100_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    folder = "outputs/" + "a_long_name_of_a_folder/" * 8
    train.main(["--config-name", "online_dpo_trainer_llama32_1b", "plan=true", f"output_dir={folder}"])
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert titles[1].startswith("roles, on devices of kind ") and titles[2] == "memory of a device, estimated"
    assert max(map(len, lines)) <= 100 and any(line.split()[-1:] == ["override"] for line in lines)
