"""Chooses a layout that fits the devices and their memory, and explains the choice with two alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from mindspeed_dpo.autoconfig.config_tree import ConfigTree
from mindspeed_dpo.autoconfig.layout_candidates import LAYOUT_KEYS, LayoutCandidate, candidate, sizes_to_try
from mindspeed_dpo.autoconfig.steps import set_placeholder
from mindspeed_dpo.config.estimates.run_summary import format_bytes
from mindspeed_dpo.config.load import validate
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.device.available_devices import assumed_memory_gib

USABLE_SHARE = 0.9
"""Share of a device's memory that a layout may take by estimate; the rest is for the allocator and buffers."""
_NUM_ALTERNATIVES = 2
_SOURCE = "layout: auto"


def add_layout(tree: ConfigTree) -> None:
    """Replace `layout: auto` by sizes, unless the configuration sets one of them.

    With problems nothing is chosen, and the configuration is refused later.
    """
    if tree.find("layout") != "auto":
        return
    tree.remove("layout")
    given = [key for key in LAYOUT_KEYS if tree.has(key)]
    if given:
        tree.add_note(f"layout=auto has no effect: {', '.join(given)} {'is' if len(given) == 1 else 'are'} set")
        return
    trial = ConfigTree(tree.composed())
    set_placeholder(trial)
    run = validate(trial.composed(), exists=lambda path: True).run
    tried = _candidates(trial, run) if run is not None else []
    if run is None or not tried:
        return
    limit = int(USABLE_SHARE * memory_gib(run) * 2**30)
    ranked = sorted(tried, key=lambda item: (item[1].num_bytes > limit, *_order(item[1], limit)))
    sizes = ranked[0][0]
    for key, value in sizes.items():
        tree.set(tree.run_section, key, value, _SOURCE)
    for note in explain([layout for _, layout in ranked], run, limit):
        tree.add_note(note)


def memory_gib(run: RunConfig) -> float:
    """Return the memory of a device in GiB: what the configuration says, else what is known of its kind."""
    if run.loop.device_memory_gib is not None:
        return run.loop.device_memory_gib
    num_processes = sum(sum(sizes) for sizes in run.pools.values())
    return assumed_memory_gib(find_accelerator(run.loop.device).kind, num_processes)


def explain(ranked: Sequence[LayoutCandidate], run: RunConfig, limit: int) -> list[str]:
    """Return the sentences of the plan about a choice: the best layout, and the next with other sizes."""
    best, has_experts = ranked[0], run.actor.model.has_experts
    # Each layout once: the first of those with the same sizes.
    first = {layout.describe(has_experts): layout for layout in reversed(ranked)}
    others = [layout for layout in ranked[1:] if first[layout.describe(has_experts)] is layout]
    fits = (
        "which fits" if best.num_bytes <= limit else "which does not fit; use more devices, LoRA or a shorter sequence"
    )
    memory = f"{format_bytes(best.num_bytes)} per device by estimate, of {format_bytes(limit)} usable, {fits}"
    notes = [f"layout: auto chose {best.describe(has_experts)}: {memory}"]
    for layout in others[:_NUM_ALTERNATIVES]:
        change = layout.relative_time / best.relative_time - 1
        fit = "" if layout.num_bytes <= limit else ", too much"
        notes.append(
            f"layout: auto could also use {layout.describe(has_experts)}: {format_bytes(layout.num_bytes)} per device"
            f"{fit}, a step takes about {change:+.0%}"
        )
    return notes


def _candidates(tree: ConfigTree, run: RunConfig) -> list[tuple[dict[str, object], LayoutCandidate]]:
    """Return the valid layouts with their settings; the rules of `config` decide which are valid."""
    found = []
    for sizes in sizes_to_try(run):
        trial = ConfigTree(tree.composed())
        for key, value in sizes.items():
            trial.set(tree.run_section, key, value, _SOURCE)
        report = validate(trial.composed(), exists=lambda path: True)
        if report.run is not None:
            found.append((sizes, candidate(report.run)))
    return found


def _order(layout: LayoutCandidate, limit: int) -> tuple[float, float]:
    """Of layouts that fit, the fastest comes first; of those that do not, the smallest."""
    if layout.num_bytes > limit:
        return layout.num_bytes, layout.relative_time
    return layout.relative_time, layout.num_bytes
