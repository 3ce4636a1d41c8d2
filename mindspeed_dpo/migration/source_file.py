"""A foreign file: what it is, and its conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.loading.foreign_files import ALIGN_ANYTHING, ROLL, TRL, trainer_of
from mindspeed_dpo.migration.huggingface import align_anything, trl
from mindspeed_dpo.migration.huggingface.roll import convert_roll
from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.mindspeed import scripts as mindspeed_scripts
from mindspeed_dpo.migration.mindspeed.rl_yaml import convert_rl_yaml
from mindspeed_dpo.migration.outcome import Migration
from mindspeed_dpo.migration.shell.command_line import CommandLine, parse_command
from mindspeed_dpo.migration.shell.variables import Script, read_script
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.text_files import read_text
from mindspeed_dpo.untrusted.yaml_text import read_yaml_texts

MAX_SCRIPT_BYTES = 1 << 18
_SOURCES = (
    "a training script of MindSpeed-LLM (posttrain_gpt.py), a TRL command (trl dpo) or YAML, a MindSpeed-RL or ROLL "
    "YAML, or an align-anything script or YAML"
)
_OF_TRAINERS = {ROLL: convert_roll, ALIGN_ANYTHING: align_anything.convert_yaml, TRL: trl.convert_yaml}
"""Conversions of YAML files."""
_OF_A_YAML = re.compile(r".*?(?:train_dpo|start_dpo_pipeline)\.py", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """Additions of a user to a file: `Options(num_pairs=60_000, processes=(8, 8), model="qwen3-8b")`.

    Attributes:
        num_pairs: Rows of the training data, from which epochs become steps; None if unknown.
        processes: Processes of each node; () for those of the file.
        model: Name of a file in configs/model; "" to find it by the name of the weights.
    """

    num_pairs: int | None = None
    processes: tuple[int, ...] = ()
    model: str = ""


def convert_file(path: Path, options: Options) -> Migration:
    """Convert a script or YAML file.

    Raises:
        FileNotFoundError: It does not exist.
        MigrationError: It is malformed, or none of the files that can be converted.
    """
    with reraised_as(MigrationError):
        if path.suffix.lower() in (".yaml", ".yml"):
            return _convert_yaml(read_yaml_texts(path), path, options)
        return _convert_script(read_text(path, MAX_SCRIPT_BYTES), path, options)


def _convert_yaml(content: Mapping[str, Any], path: Path, options: Options) -> Migration:
    if "megatron_training" in content and "actor_rollout_ref" not in content:
        migration = convert_rl_yaml(content, path)
        migration.processes = options.processes
        migration.shipped_model = options.model or migration.shipped_model
        return migration
    if "actor_rollout_ref" in content:
        raise MigrationError(
            f"{path} needs no conversion: mindspeed-dpo train --config-dir {path.parent} --config-name {path.stem}"
        )
    trainer = trainer_of(content)
    if trainer is None:
        raise MigrationError(f"{path} is none of the files that can be converted: {_SOURCES}")
    return _OF_TRAINERS[trainer](content, options)


def _convert_script(text: str, path: Path, options: Options) -> Migration:
    script = read_script(text, str(path))
    migration = _convert_commands(script, path, options)
    migration.processes = options.processes or migration.processes
    for line, keyword in script.skipped:
        migration.to_do.append(
            f"line {line} of the script: `{keyword}` is not evaluated, and all its assignments were read; "
            "compare the result"
        )
    return migration


def _convert_commands(script: Script, path: Path, options: Options) -> Migration:
    found: list[Migration] = []
    for line, words in ((line, _joined(words)) for line, words in script.commands):
        for program, convert in (
            (mindspeed_scripts.PROGRAM, lambda command: mindspeed_scripts.convert_command(command, str(path))),
            (align_anything.PROGRAM, lambda command: align_anything.convert_command(command, options)),
            (trl.PROGRAM, lambda command: trl.convert_command(command, options)),
        ):
            if _starts(words, program):
                found.append(convert(parse_command(line, words, program)))
                break
    if len(found) == 1:
        return found[0]
    if found:
        raise MigrationError(f"{path} has {len(found)} training commands; keep one in a file of its own")
    for _, words in script.commands:
        command = parse_command(0, words, _OF_A_YAML)
        if command.program:
            raise MigrationError(f"{path} only starts {command.program}: convert {_yaml_of(command)} instead")
    raise MigrationError(f"{path} has no training command that can be converted: {_SOURCES}")


def _starts(words: list[str], program: re.Pattern[str]) -> bool:
    """Whether a command starts a program: one of its words names it, and it is not only printed."""
    return words[0] not in ("echo", "printf", "cd") and any(map(program.fullmatch, words))


def _joined(words: list[str]) -> list[str]:
    """Make one word of `trl dpo`: the command and its first argument name the program together."""
    for index in range(len(words) - 1):
        if Path(words[index]).name == "trl" and words[index + 1] == "dpo":
            return [*words[:index], "trl dpo", *words[index + 2 :]]
    return words


def _yaml_of(command: CommandLine) -> str:
    names = command.flags.get("config-name") or command.flags.get("config_name") or command.positional
    folder = (command.flags.get("config_path") or command.flags.get("config-path") or [""])[0]
    return f"{Path(folder) / names[0]}.yaml" if names else "its YAML file"
