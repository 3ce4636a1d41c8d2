"""Trains: composes, completes and validates the configuration, then trains.

The configuration is a file, `--config-name NAME`, or follows from the command: `model=FOLDER data=FILE`.

Exit code: that of the run, or 2 if the configuration has problems, which are listed before anything starts. With
`plan=true` (dry run) nothing starts: the plan of the run is printed, all is checked that a run checks before it takes
devices, and the exit code is 0 if the run would start.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mindspeed_dpo.autoconfig.bare_keys import compose_words
from mindspeed_dpo.autoconfig.command_words import names_model_or_data, parse_words
from mindspeed_dpo.autoconfig.complete import completed
from mindspeed_dpo.commands.settings_as_flags import settings_as_words
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import check, validate
from mindspeed_dpo.config.loading.compose import ComposedConfig, available_configs
from mindspeed_dpo.processes.garbage_collection import collection_suspended

PLAN = re.compile(r"\+{0,2}plan=(.*)")


def main(arguments: Sequence[str] | None = None, program: str = "ray_gpt.py") -> int:
    """Run the command line and return its exit code; `program` is its name in messages."""
    parser = _parser(program)
    try:
        words = settings_as_words(sys.argv[1:] if arguments is None else arguments)
        options = parser.parse_intermixed_args(words)
        options.plan, options.overrides = _split_plan(options)
        if options.config_name is None and not names_model_or_data(options.overrides):
            sys.stderr.write("error: model= and data= are missing, or --config-name; there are\n")
            return _list_errors(available_configs(options.config_dir))
        composed = _compose(options)
        if options.plan:
            return _dry_run(composed)
        run = check(composed)
    except ConfigError as error:
        return _reject(error.problems)
    for note in run.notes:
        sys.stderr.write(f"note: {note}\n")
    # Deferred: this imports torch and Ray, for which a misspelled key should not have to wait.
    with collection_suspended():
        from mindspeed_dpo.trainers.build import train

    return train(run)


def _compose(options: argparse.Namespace) -> ComposedConfig:
    """Return the complete configuration of a command, from its configuration file or from its model and data."""
    if options.config_name is not None:
        name, folder = _split_path(options.config_name, options.config_dir)
        return completed(compose_words(name, options.overrides, folder))
    words = parse_words(options.overrides)
    # Deferred: this imports torch and the readers of data, for which a misspelled word should not have to wait.
    with collection_suspended():
        from mindspeed_dpo.autoconfig.one_command import configure
        from mindspeed_dpo.observability.logs import log_to_console
    with log_to_console():
        return configure(words, _print_line)


def _print_line(line: str) -> None:
    """Write a line for the user at once, also where the terminal cannot express every character of a sample."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{line}\n".encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _split_path(config_name: str, config_dir: str | None) -> tuple[str, str | None]:
    """Return name and folder of a configuration, whose name may also be its path."""
    path = Path(os.path.expanduser(config_name))
    file = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    is_path = len(path.parts) > 1 or path.suffix == ".yaml"
    if config_dir is None and is_path and file.is_file():
        return file.stem, str(file.parent)
    return config_name, config_dir


def _split_plan(options: argparse.Namespace) -> tuple[bool, list[str]]:
    """Return whether this is a dry run, and the overrides without `plan=…`."""
    is_dry_run, words = options.plan, {"true": True, "false": False}
    for match in filter(None, map(PLAN.fullmatch, options.overrides)):
        if match[1].lower() not in words:
            raise ConfigError([f"{match[0]} must be true or false"])
        is_dry_run = words[match[1].lower()]
    return is_dry_run, [text for text in options.overrides if not PLAN.fullmatch(text)]


def _dry_run(composed: ComposedConfig) -> int:
    """Print the plan of the run, then what prevents its start."""
    report = validate(composed)
    if report.run is not None:
        from mindspeed_dpo.trainers.dry_run import preview

        width = {"width": shutil.get_terminal_size().columns} if sys.stdout.isatty() else {}
        sys.stdout.write(preview(report.run, **width))
        sys.stdout.flush()
    if report.problems or report.run is None:
        return _reject(report.problems)
    # Deferred: this imports torch and Ray, and the plan should not have to wait for them.
    from mindspeed_dpo.trainers.start_checks import report_start

    return report_start(report.run)


def _reject(problems: Sequence[str]) -> int:
    sys.stderr.write(f"error: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration\n")
    return _list_errors(problems)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Train a model as configured.", allow_abbrev=False)
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="a YAML file of configs/rlxf, without .yaml")
    parser.add_argument(
        "--config-dir", "--config-path", "-cd", metavar="DIR", help="a folder searched before configs/rlxf"
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print the plan of the run and check it, as plan=true does, and start nothing",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that replace those of the file, as section.key=value or key=value; without a file: "
        "model=FOLDER data=FILE, and eval=FILE, lora=RANK, stage=offline|online|rm, devices=N",
    )
    return parser


def _list_errors(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"  - {line}\n")
    return 2
