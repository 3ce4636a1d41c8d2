"""Train: `python ray_gpt.py --config-name offline_dpo_trainer_tiny training.train_iters=10`.

Composes and checks the configuration, then hands it to `mindspeed_dpo.trainers`. Exit code: that of the run, or 2 where
the configuration has problems; these are listed before anything starts.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from mindspeed_dpo.config.compose import available
from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.config.problems import ConfigProblems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.config_name is None:
            print("error: --config-name is missing; there are", file=sys.stderr)
            return _tell(available(options.config_dir))
        run = load_run(options.config_name, options.overrides, options.config_dir)
    except ConfigProblems as found:
        count = len(found.problems)
        print(f"error: {count} problem{'s' if count > 1 else ''} in the configuration", file=sys.stderr)
        return _tell(found.problems)
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    # Only now: the trainers bring torch and megatron-core, which a misspelled key should not have to wait for.
    return int(importlib.import_module("mindspeed_dpo.trainers.assemble").run(run))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ray_gpt.py", description="Train as a configuration says.", allow_abbrev=False
    )
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="a YAML file of configs/rlxf, without .yaml")
    parser.add_argument(
        "--config-dir", "--config-path", "-cd", metavar="DIR", help="a folder searched before configs/rlxf"
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
