"""The dry run: prints a run's settings and their origins, pools, workload and memory without starting anything.

It reads the row lengths of the data where it exists, and uses neither torch nor Ray nor a device. Whether the run would
start is checked by `start_checks`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mindspeed_dpo.autoconfig.kept_rows import filtered_rows
from mindspeed_dpo.config.estimates.run_summary import device_memory, format_bytes, role_layouts, workload_lines
from mindspeed_dpo.config.loading.provenance import ResolvedSetting, settings_by_section
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.evaluation import HOLD_OUT
from mindspeed_dpo.config.sourced_values import OVERRIDE
from mindspeed_dpo.device.environment_variables import environment_rows, likely_kind

WIDE = 1000
"""Columns of the output unless it is a terminal: wide enough that every row is one line and can be searched for."""


def preview(run: RunConfig, width: int = WIDE) -> str:
    """Return the plan of a run as text.

    Args:
        run: Settings of the run; its files need not exist.
        width: Columns of the terminal.
    """
    out = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False)
    out.print(f"plan of {run.name}: nothing is started")
    _show(
        out,
        f"roles, on devices of kind {likely_kind(run.loop.device)}",
        ("role", "pool", "processes per node", "layout"),
        role_layouts(run),
    )
    _show(out, "memory of a device, estimated", ("pool", "part", "size"), _memory(run))
    _show(out, "a step", ("",), ([line] for line in workload_lines(run)))
    _show(out, "length", ("", ""), _length(run))
    if run.notes:
        _show(out, "notes", ("",), ([note] for note in run.notes))
    for section, settings in settings_by_section(run):
        _show(out, section, ("key", "value", "from"), map(_short, settings))
    _show(out, "environment of a process", ("name", "value", "whose", "reason"), _environment(run))
    file = out.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _short(setting: ResolvedSetting) -> ResolvedSetting:
    """Return a setting whose source does not repeat key and value."""
    is_override = setting.source.startswith(f"{OVERRIDE} ")
    return setting._replace(source=OVERRIDE) if is_override else setting


def _show(out: Console, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(head), padding=(0, 2, 0, 0))
    for number, name in enumerate(head):
        table.add_column(
            f"  {name}" if number == 0 else name, overflow="fold", justify="right" if name == "size" else "left"
        )
    for row in rows:
        table.add_row(*(Text(f"  {cell}" if number == 0 else cell) for number, cell in enumerate(row)))
    out.print(f"\n{title}")
    out.print(table)


def _environment(run: RunConfig) -> Iterator[tuple[str, str, str, str]]:
    """Yield the environment variables that the run sets in its processes or leaves to the user, on this machine."""
    parallel, precision = run.actor.parallel, run.actor.precision
    return environment_rows(
        likely_kind(run.loop.device),
        parallel.distributed_timeout_minutes,
        os.environ,
        deterministic=precision.use_deter_comp,
    )


def _memory(run: RunConfig) -> Iterator[tuple[str, str, str]]:
    for pool, parts in device_memory(run).items():
        yield from ((pool, name, format_bytes(size)) for name, size in parts)
        yield pool, "together", format_bytes(sum(size for _, size in parts))


def _length(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the length of the run in steps and epochs."""
    steps, size = run.loop.train_iters, run.actor.batch.global_batch_size
    what = "prompts" if run.is_online else "pairs"
    yield "steps", f"{steps}, {steps * size} {what}"
    try:
        rows = filtered_rows(run, run.actor.data.data_path)
        splits = rows.splits(run.actor.data.split)
        evaluated = {name: filtered_rows(run, path) for name, path in (run.loop.eval_data_path or {}).items()}
    except (OSError, ValueError) as error:
        yield "epochs", f"unknown: the data cannot be read ({error})"
        return
    train, held_out = len(splits.train), len(splits.valid)
    yield "data", rows.counts.summary()
    yield "epochs", f"{steps * size / train:.4g} of {train} {what}" if train else "none: no row is left for training"
    if run.loop.evaluates:
        most = run.loop.eval_iters * size
        for name, count in ((HOLD_OUT, held_out), *((name, len(rows)) for name, rows in evaluated.items())):
            yield f"eval {name}", f"{min(count, most)} of {count} {what} every {run.loop.eval_interval} steps"
