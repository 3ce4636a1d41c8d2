"""Conversion of one training command of MindSpeed-LLM: `torchrun … posttrain_gpt.py …`."""

from __future__ import annotations

import re

from mindspeed_dpo.config.legacy_keys import normalize_key
from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.migration.mindspeed.arguments import convert_arguments, text_of
from mindspeed_dpo.migration.mindspeed.key_rules import LAUNCHER_RULES
from mindspeed_dpo.migration.outcome import Migration
from mindspeed_dpo.migration.rules import apply_rule
from mindspeed_dpo.migration.shell.command_line import CommandLine, Flags

PROGRAM = re.compile(r".*?(?:posttrain|pretrain)_gpt\.py", re.DOTALL)
TOOL = "MindSpeed-LLM"


def convert_command(command: CommandLine, location: str) -> Migration:
    """Convert a command.

    Args:
        command: The command, divided at the program.
        location: The file, which begins the message of an error.

    Raises:
        MigrationError: The stage is one that this project does not have.
    """
    migration = Migration(f"{TOOL} script")
    _convert_launcher(command.launcher_flags, migration)
    arguments = {normalize_key(name): text_of(words, normalize_key(name)) for name, words in command.flags.items()}
    for name in command.repeated:
        migration.changed.append((f"{name} is given twice", f"the last one, {arguments[normalize_key(name)]}", ""))
    if command.positional:
        migration.leave_out(" ".join(command.positional), "these words belong to no flag")
    convert_arguments(arguments, migration, TOOL, location)
    return migration


def processes_of(flags: Flags, per_node: str, nodes: str) -> tuple[int, ...]:
    """Return the processes of each node that a launcher starts; () where a number is missing or no number."""
    counts = [parse_plain((flags.get(name) or ["1" if name == nodes else ""])[-1]) for name in (per_node, nodes)]
    if not all(type(count) is int and 0 < count <= 1 << 16 for count in counts):
        return ()
    return (counts[0],) * counts[1]


def _convert_launcher(flags: Flags, migration: Migration) -> None:
    named = {normalize_key(name): words for name, words in flags.items()}
    migration.processes = processes_of(named, "nproc_per_node", "nnodes")
    for name, words in named.items():
        apply_rule(name, " ".join(words), LAUNCHER_RULES.get(name), migration, "torchrun")
    if "nproc_per_node" in named and not migration.processes:
        written = " ".join(named["nproc_per_node"])
        migration.to_do.append(f"resource_pool.actor_rollout: nproc_per_node={written} is no number; set it, e.g. [8]")
