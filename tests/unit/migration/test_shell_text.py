"""Scripts read as text have the words that bash gives them; nothing of them is executed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.shell.arithmetic import compute
from mindspeed_dpo.migration.shell.command_line import parse_command
from mindspeed_dpo.migration.shell.variables import MAX_COMMANDS, read_script
from mindspeed_dpo.migration.source_file import MAX_SCRIPT_BYTES
from tests.unit.migration.foreign_files import converted

SCRIPTS = [
    "A=1\nshow $A ${A} \"$A\" '$A' x$A-y",
    'A="one\n  two \\\n three"\nshow $A "$A" -$A-',
    'A=\'$B\'; B=2\nshow $A "$A" \\$B \\"$B\\"',
    "A=1 # a comment\nshow a#b # another\nshow c",
    'A="--x 1"\nA+=" --y 2"\nshow $A --z "a b" \'c d\'',
    "A=(one 'two three' \\\n  four)\nA+=(five)\nshow ${A[@]} \"${A[@]}\" end",
    'A=${B:-default}\nB=\nshow $A ${B:-"empty"} ${C:-$A} x${B}y',
    "TP=2\nCP=3\nN=$((TP*CP))\nshow $N $(( $TP + ${CP} * 2 )) $((7 / 2 - (1 - 3) % 2))",
    'A=1; B=2; show $A"$B"${A}\nshow "a\\\nb" c\\\nd "tab\\there"',
    "export A=1 B='2 3'\nshow $A $B && show third; show fourth",
    "A='a  b '\nshow x$A$A\"$A\"y",
    'show "" \'\' x""\nA=\nshow $A "$A"',
]


def words_of_bash(script: str) -> list[list[str]]:
    show = 'show() { printf "%s\\0" "$@"; printf "\\n\\0"; return 0; }\n'
    output = subprocess.run(["bash", "-c", show + script], capture_output=True, text=True, check=True).stdout
    commands: list[list[str]] = [[]]
    for word in output.split("\0")[:-1]:
        if word == "\n":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands[:-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_are_those_of_bash(script: str) -> None:
    ours = [words[1:] for _, words in read_script(script, "run.sh").commands]
    assert ours == words_of_bash(script)


@pytest.mark.parametrize(
    "expression", ["1", "2*3+4", "2+3*4", "(2+3)*4", "-7/2", "7/-2", "-7%3", "7%-3", "2 * -3", "10-4-3", "100/10/5"]
)
def test_arithmetic_is_that_of_bash(expression: str) -> None:
    assert [[str(compute(expression, {}))]] == words_of_bash(f"show $(({expression}))")


@pytest.mark.parametrize(
    "expression", ["", "1/0", "1%0", "(1", "1)", "a", "1+", "2**3", "x[0]", "1;2", "9" * 30, "1+" * 300]
)
def test_arithmetic_without_a_value_has_none(expression: str) -> None:
    assert compute(expression, {}) is None


def test_nothing_is_executed_and_what_is_not_defined_is_listed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    script = f"A=$(touch {marker})\nB=`touch {marker}`\nshow $A $B $C ${{D}} ${{1:-x}} $1 $((E))\neval 'touch {marker}'"
    result = read_script(script, "run.sh")
    assert not marker.exists()
    assert result.commands[0][1][-3:] == ["x", "$1", "$((E))"]
    assert result.undefined == [f"$(touch {marker})", f"`touch {marker}`", "$C", "${D}", "$1", "$((E))"]


def test_conditions_are_named_with_their_lines() -> None:
    script = "TP=1\nif [ $X = 1 ]; then\n  TP=2\nfi\nsource ./setup.sh\nshow $TP"
    result = read_script(script, "run.sh")
    assert result.skipped == [(2, "if"), (5, "source")]
    assert result.commands[-1] == (6, ["show", "2"])


def test_redirections_belong_to_no_flag() -> None:
    words = [
        "torchrun",
        "--nnodes",
        "1",
        "run.py",
        "--a",
        "x",
        "--b=1",
        "--a",
        "y",
        "--c",
        "-1",
        "2>",
        "err",
        ">log",
        "--d",
    ]
    command = parse_command(1, words, re.compile("run.py"))
    assert command.flags == {"a": ["y"], "b": ["1"], "c": ["-1"], "d": []}
    assert (command.launcher, command.launcher_flags, command.repeated) == (("torchrun",), {"nnodes": ["1"]}, ("a",))


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ('A=1\nB="x', 'line 2: the quote " is not closed'),
        ("A='x", "line 1: the quote ' is not closed"),
        ("A=(1 2", r"line 1: the parenthesis \( is not closed"),
        ("A=(1 (2 3))", r"line 1: a parenthesis \( within an array"),
        ("A=" + "x" * 100 + "\n" + 'A="$A$A"\n' * 20, "characters with its variables replaced"),
        ("A=" + "x" * 100 + "\n" + "A=($A $A)\n" + "A=(${A[@]} ${A[@]})\n" * 20, "with its variables replaced"),
        ("A='" + "x " * 1000 + "'\n" + "show $A\n" * 1000, "with its variables replaced"),
        ("A=" + "x" * 10**5 + "\n" + "B=y$A\n" * 1000, "with its variables replaced"),
        ("A=" + "${B:-" * 1000 + "}" * 1000, "defaults of variables are nested"),
        ("true\n" * (MAX_COMMANDS + 2), "has more than 10000 commands"),
    ],
)
def test_scripts_that_cannot_be_read(script: str, sentence: str) -> None:
    with pytest.raises(MigrationError, match=sentence):
        read_script(script, "run.sh")


def test_the_words_of_a_large_value_are_divided_once() -> None:
    words = read_script("A='" + "x " * 50_000 + "'\nshow $A", "run.sh").commands[0][1]
    assert len(words) == 50_001


def test_large_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="bytes, the limit"):
        converted(tmp_path, "run.sh", "#" * (MAX_SCRIPT_BYTES + 1))
