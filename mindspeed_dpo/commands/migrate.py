"""Converts a script or YAML file of another trainer to a configuration: `mindspeed-dpo migrate FILE`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.migration_report import report_lines
from mindspeed_dpo.migration.model_files import shipped_models
from mindspeed_dpo.migration.source_file import Options, convert_file
from mindspeed_dpo.migration.yaml_file import problems_of, render
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.nearest_path import nearest_path_advice
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.storage.write_errors import failure_sentence, write_errors

_DESCRIPTION = """Converts a training script of MindSpeed-LLM (torchrun ... posttrain_gpt.py), a YAML file of
MindSpeed-RL, ROLL, TRL or align-anything, or a script with a TRL or align-anything command to a configuration. The
file is read as text; nothing of it is executed. What has no counterpart is listed with the reason. docs/migration.md
has the tables of keys."""


def main(arguments: Sequence[str], program: str = "mindspeed-dpo migrate") -> int:
    """Convert one file, write or print the YAML and print the report.

    Args:
        arguments: The command line without the program's name.
        program: Its name in messages.

    Returns:
        Exit code: 0 for a configuration that is complete, 3 for one to which something has to be added, 1 for a file
        that cannot be converted, 2 for an error in the command line.
    """
    options = _parser(program).parse_args(arguments)
    try:
        output = expanded_path(options.output) if options.output else None
        _check_output(output, options.force)
        file = expanded_path(options.file)
        migration = convert_file(file, Options(options.rows, options.devices, options.model))
        text = render(migration, file.name)
        if output is not None:
            with write_errors(output, "give another --output"):
                write_text_atomically(output, text)
    except (MigrationError, OSError) as error:
        sys.stderr.write(f"{program}: {_sentence(error)}\n")
        return 1
    problems = problems_of(text)
    if output is None:
        sys.stdout.write(text)
    report = "\n".join(report_lines(migration, problems))
    sys.stderr.write(f"{report}\n{_next_step(output)}\n")
    return 3 if problems else 0


def _sentence(error: MigrationError | OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no file {error.filename}{nearest_path_advice(error.filename)}"
    return failure_sentence(error) if isinstance(error, OSError) else str(error)


def _check_output(output: Path | None, force: bool) -> None:
    if output is not None and output.exists() and not force:
        raise MigrationError(f"--output {output} exists; choose another name, or give --force to replace it")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program, description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="script or YAML file")
    parser.add_argument("--output", metavar="FILE.yaml", help="where to write the configuration; else it is printed")
    parser.add_argument("--force", action="store_true", help="replace an existing output file")
    parser.add_argument("--rows", type=_count, metavar="N", help="training rows, from which epochs become steps")
    parser.add_argument(
        "--devices",
        type=_counts,
        default=(),
        metavar="N[,N...]",
        help="processes of each node, if the file does not say",
    )
    parser.add_argument("--model", default="", choices=shipped_models(), metavar="NAME", help="a file of configs/model")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,14}", text):
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


def _next_step(output: Path | None) -> str:
    if output is None:
        return "\nWrite it to a file with --output FILE.yaml."
    return f"\nCheck it with: mindspeed-dpo plan --config-dir {output.parent} --config-name {output.stem}"
