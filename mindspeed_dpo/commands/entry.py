"""The program `mindspeed-dpo`: the name of a command, followed by what its script takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import mindspeed_dpo
from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.processes.interruption import ended_by_signals

PROGRAM = "mindspeed-dpo"
USAGE = f"""usage: {PROGRAM} COMMAND ...

commands:
  train       train a model, from a folder and a file of data or as configured:
                {PROGRAM} train model=FOLDER data=FILE [key=value ...]
                {PROGRAM} train --config-name NAME [section.key=value ...]
  plan        print and check what a run would do; options as of train
  preprocess  convert raw preference or prompt files to token files
  convert     convert weights between Hugging Face and Megatron-core
  migrate     convert a script or YAML file of MindSpeed-LLM, MindSpeed-RL, TRL,
              ROLL or align-anything to a configuration
  report      write or serve the page of one or more runs
  doctor      report what is missing on this machine

options:
  --version   print the version
  --help      this text; `{PROGRAM} COMMAND --help` lists the options of a command
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; 2 for an unknown one."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if name == "--version":
        sys.stdout.write(f"{PROGRAM} {mindspeed_dpo.__version__}\n")
        return 0
    if name not in COMMANDS:
        sys.stderr.write(f"{PROGRAM}: there is no command {name}{did_you_mean(name, list(COMMANDS))}\n{USAGE}")
        return 2
    if name == "train":  # Its supervisor handles signals.
        return _train(rest)
    with ended_by_signals(f"{PROGRAM} {name}"):
        return COMMANDS[name](rest)


# Deferred imports: each command needs other libraries, and none should wait for those of the others.


def _train(arguments: list[str]) -> int:
    from mindspeed_dpo.commands import train
    from mindspeed_dpo.processes.supervisor import supervise

    return supervise(lambda: train.main(arguments, f"{PROGRAM} train"))


def _plan(arguments: list[str]) -> int:
    from mindspeed_dpo.commands import train

    return train.main(["--plan", *arguments], f"{PROGRAM} plan")


def _preprocess(arguments: list[str]) -> int:
    from mindspeed_dpo.commands import preprocess

    return preprocess.main(arguments, f"{PROGRAM} preprocess")


def _convert(arguments: list[str]) -> int:
    from mindspeed_dpo.commands import convert

    return convert.main(arguments, f"{PROGRAM} convert")


def _migrate(arguments: list[str]) -> int:
    from mindspeed_dpo.commands import migrate

    return migrate.main(arguments, f"{PROGRAM} migrate")


def _report(arguments: list[str]) -> int:
    from mindspeed_dpo.commands import report

    return report.main(arguments, f"{PROGRAM} report")


def _doctor(arguments: list[str]) -> int:
    from mindspeed_dpo.doctor import __main__ as doctor

    return doctor.main(arguments, program=f"{PROGRAM} doctor")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "plan": _plan,
    "preprocess": _preprocess,
    "convert": _convert,
    "migrate": _migrate,
    "report": _report,
    "doctor": _doctor,
}
"""What runs each command, by its name."""
