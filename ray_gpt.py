"""Train: `python ray_gpt.py --config-name offline_dpo_trainer_tiny training.train_iters=10`.

Composes and checks the configuration, then hands it to `mindspeed_dpo.trainers`. Exit code: that of the run, or 2 where
the configuration has problems; these are listed before anything starts. With `plan=true` nothing starts at all: the run
is told, as far as it can be, and the exit code is 0 where it could begin.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import sys
from collections.abc import Sequence

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import load_run, validate
from mindspeed_dpo.config.loading.compose import available_configs, compose

PLAN = re.compile(r"\+{0,2}plan=(.*)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    try:
        options.plan, options.overrides = _plan_asked(options)
        if options.config_name is None:
            print("error: --config-name is missing; there are", file=sys.stderr)
            return _tell(available_configs(options.config_dir))
        if options.plan:
            return _plan(options)
        run = load_run(options.config_name, options.overrides, options.config_dir)
    except ConfigError as found:
        return _refuse(found.problems)
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    # Only now: the trainers bring torch and megatron-core, which a misspelled key should not have to wait for.
    return int(importlib.import_module("mindspeed_dpo.trainers.build").run(run))


def _plan_asked(options: argparse.Namespace) -> tuple[bool, list[str]]:
    """Whether the run is only to be told, and the overrides without the word that says so."""
    asked, words = options.plan, {"true": True, "false": False}
    for match in filter(None, map(PLAN.fullmatch, options.overrides)):
        if match[1].lower() not in words:
            raise ConfigError([f"{match[0]} must be true or false"])
        asked = words[match[1].lower()]
    return asked, [text for text in options.overrides if not PLAN.fullmatch(text)]


def _plan(options: argparse.Namespace) -> int:
    """Print what the run would do, then what keeps it from running."""
    found = validate(compose(options.config_name, options.overrides, options.config_dir))
    if found.run is not None:
        preview = importlib.import_module("mindspeed_dpo.trainers.dry_run")
        width = {"width": shutil.get_terminal_size().columns} if sys.stdout.isatty() else {}
        print(preview.preview(found.run, **width), end="", flush=True)
    return _refuse(found.problems) if found.problems else 0


def _refuse(problems: Sequence[str]) -> int:
    print(f"error: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration", file=sys.stderr)
    return _tell(problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ray_gpt.py", description="Train as a configuration says.", allow_abbrev=False
    )
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="a YAML file of configs/rlxf, without .yaml")
    parser.add_argument(
        "--config-dir", "--config-path", "-cd", metavar="DIR", help="a folder searched before configs/rlxf"
    )
    parser.add_argument(
        "--plan", action="store_true", help="tell what the run would do, as plan=true does, and start nothing"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that replace those of the file"
    )
    return parser


def _tell(lines: Sequence[str]) -> int:
    for line in lines:
        print(f"  - {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
