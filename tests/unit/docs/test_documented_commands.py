"""Each command of the tutorials and of the scripts in examples is one that would run: nothing of it is trained here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from mindspeed_dpo.trainers import start_checks
from tests.support.commands import ROOT, Finished
from tests.support.documented_commands import Documented, blocks, commands, files, try_out

TUTORIALS = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if not path.name.endswith(".zh.md"))
SCRIPTS = [ROOT / "examples" / name for name in ("quickstart.sh", "reward_then_online.sh")]
NOT_HERE = {"model_from_hf/", "dataset/"}
"""Where configurations for real models expect model and data, which a user places there."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which commands find the examples, and the tokens that those before them have made."""
    path = tmp_path_factory.mktemp("documented")
    (path / "examples").symlink_to(ROOT / "examples")
    return path


@pytest.fixture(autouse=True)
def workplace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in that folder; what a run would connect to is not looked for."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(start_checks, "report_start", lambda run: 0)


def trained_by(page: Path) -> set[str]:
    """What the training commands of a page write."""
    return {path for block in blocks(page) for command in commands(block) for path in command.outputs}


def unexpected(finished: Finished, missing: set[str]) -> list[str]:
    """Complaints of a command, without those about what a training would have written before."""
    lines = [line for line in finished.text.splitlines() if re.match(r"\s+- |\S*(error|Error)|mindspeed-dpo", line)]
    lines = [line for line in lines if not re.match(r"error: \d+ problems?", line)]
    return [line for line in lines or [finished.text] if not any(path in line for path in missing)]


def check_all(text: str, capture: pytest.CaptureFixture[str], trained: Iterable[str] = ()) -> list[Documented]:
    """Try all commands of a text, which may also read what other pages train."""
    for name, content in files(text).items():
        Path(name).write_text(content)
    found, missing = list(commands(text)), {*NOT_HERE, *trained}
    for command in found:
        finished = try_out(command, capture)
        assert finished.code == 0 or unexpected(finished, missing) == [], f"{command.words}\n{finished.text}"
        missing |= command.outputs
    return found


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_commands_of_a_tutorial_would_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = re.findall(r"it needs the run of \[\w+\]\((\w+\.md)\)", page.read_text(encoding="utf-8"))
    trained = {path for other in others for path in trained_by(page.with_name(other))}
    found = check_all("".join(blocks(page)), capsys, trained)
    assert any({"train", "plan", "bash"} & set(command.words[:2]) for command in found)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_commands_of_an_example_would_run(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script.read_text(encoding="utf-8")
    out = re.findall(r'^out="(.+)"$', text, re.MULTILINE)[0]
    lines = re.findall(r'^"\$python" (?:.*\\\n)*.*$', text, re.MULTILINE)
    found = check_all("\n".join(lines).replace('"$python"', "python").replace("$out", out) + "\n", capsys)
    assert sum("ray_gpt.py" in command.words for command in found) >= 2


def test_a_mistake_in_a_command_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    make = "python examples/tiny/make_model.py m\npython examples/tiny/make_preferences.py p.jsonl\n"
    check_all(make + "mindspeed-dpo train model=m data=p.jsonl output_dir=o lr=1e-3", capsys)
    with pytest.raises(AssertionError, match="did you mean"):
        check_all("mindspeed-dpo train model=m data=p.jsonl output_dir=o lrr=1e-3", capsys)
    with pytest.raises(AssertionError, match="there is no examples/tiny/try_it"):
        check_all("python examples/tiny/try_it.py m", capsys)
    with pytest.raises(AssertionError, match="absent"):
        check_all("mindspeed-dpo report absent", capsys)
