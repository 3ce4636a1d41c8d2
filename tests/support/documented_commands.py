"""Commands of pages and shell scripts, read as a shell would read them, and called in this process without training."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mindspeed_dpo.commands import convert, entry, preprocess, train
from tests.support.commands import ROOT, Finished, call, run_here

FEW_ROWS = "64"
"""Rows that are made for a test, whatever a page says: their form matters."""
_MAKERS_OF_ROWS = ("make_preferences.py", "make_rule_pairs.py", "make_prompts.py")
_VARIABLE = re.compile(r"([A-Z_]+)=(.*)")
_HEREDOC = re.compile(r"cat > (\S+) <<'END'\n(.*?)\nEND\n", re.DOTALL)
_CONFIG_NAME = re.compile(r"CONFIG_NAME:-(\w+)")
_CALLED: dict[tuple[str, ...], Callable[[list[str]], int]] = {
    ("mindspeed-dpo",): lambda words: entry.main(["plan" if words[0] == "train" else words[0], *words[1:]]),
    ("python", "ray_gpt.py"): lambda words: train.main(["--plan", *words]),
    ("python", "preprocess_data.py"): preprocess.main,
    ("python", "convert_ckpt.py"): convert.main,
}


@dataclass(frozen=True)
class Documented:
    """A command of a page: its words without the variables before them, for example `Documented(("mindspeed-dpo", …))`.

    Attributes:
        words: Program and arguments, as the shell divides them.
        variables: Environment variables that it is given.
    """

    words: tuple[str, ...]
    variables: dict[str, str]

    @property
    def outputs(self) -> set[str]:
        """What it writes that does not exist in a test: the folder of a training run, or converted weights."""
        if "plan" in self.words:
            return set()
        found = {word.split("output_dir=", 1)[1] for word in self.words if "output_dir=" in word}
        pairs = zip(self.words, self.words[1:], strict=False)
        return found | {value for flag, value in pairs if flag == "--save-dir"}


def blocks(page: Path) -> Iterator[str]:
    """Blocks of commands of a page, which are those of the language bash."""
    yield from re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def files(text: str) -> dict[str, str]:
    """Files that commands write with `cat`: path to content."""
    return {name: f"{content}\n" for name, content in _HEREDOC.findall(text)}


def commands(text: str) -> Iterator[Documented]:
    """The commands of a block or script, one of each logical line."""
    for line in re.sub(r"\\\n", " ", _HEREDOC.sub("", text)).splitlines():
        words = shlex.split(line, comments=True)
        count = next((number for number, word in enumerate(words) if not _VARIABLE.fullmatch(word)), len(words))
        variables = dict(word.split("=", 1) for word in words[:count])
        if words[count:]:
            yield Documented(tuple(words[count:]), variables)


def try_out(command: Documented, capture: pytest.CaptureFixture[str]) -> Finished:
    """Call a command in this process: what makes inputs makes them, a training is planned, the rest is started.

    A script of examples that shows a result, or the doctor, is only looked for.
    """
    for start, main in _CALLED.items():
        if command.words[: len(start)] == start:
            return call(main, command.words[len(start) :], capture)
    program, script, *arguments = command.words
    if program == "bash":
        return _cluster_run(command, script, arguments, capture)
    assert program == "python", command
    if script.startswith("examples/tiny/make_"):
        run_here(script, *arguments, *(("--count", FEW_ROWS) if script.endswith(_MAKERS_OF_ROWS) else ()))
        return Finished(0, "")
    assert script == "-m" or (ROOT / script).is_file(), f"there is no {script}"
    return Finished(0, "")


def _cluster_run(
    command: Documented, script: str, overrides: list[str], capture: pytest.CaptureFixture[str]
) -> Finished:
    """The plan of a run that examples/cluster starts on the head; other nodes take no settings."""
    text = (ROOT / script).read_text(encoding="utf-8")
    default = _CONFIG_NAME.search(text)
    if default is None or command.variables.get("CURRENT_IP") != command.variables.get("MASTER_ADDR"):
        assert not overrides, f"{command.words}: arguments have an effect on the head only"
        return Finished(0, "")
    name = command.variables.get("CONFIG_NAME", default[1])
    return call(train.main, ["--plan", "--config-name", name, *overrides, "training.device=cpu"], capture)
