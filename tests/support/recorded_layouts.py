"""The layouts under which recorded cases are run, and which cases meet which of them in the tests."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from mindspeed_dpo.config.run import RunConfig
from tests.recordings.cases import CASES, EXPERT_CASES
from tests.support.recorded_runs import recorded_run
from tests.support.runs import Layout


class RunLayout(NamedTuple):
    """Sizes and settings that must not change what is computed."""

    sizes: Layout
    settings: dict[str, Any]


LAYOUTS = {
    "TP1": RunLayout((1, 1, 1), {}),
    "TP2+SP": RunLayout((2, 1, 1), {"sequence_parallel": True}),
    "PP2": RunLayout((1, 2, 1), {}),
    "DP2": RunLayout((1, 1, 2), {}),
    "CP2": RunLayout((1, 1, 1), {"context_parallel_size": 2}),
    "TP2×PP2": RunLayout((2, 2, 1), {}),
    "packed": RunLayout((1, 1, 1), {"micro_batch_size": None, "micro_batch_tokens": 128, "pad_to_multiple_of": 16}),
    "unshared": RunLayout((1, 1, 1), {"share_prompt": False}),
}
"""By their names in docs/numerics.md: tensor, sequence, pipeline, data and context parallelism; several pairs in one
pass by a budget of tokens; each response with a prompt of its own."""
EXPERT_LAYOUTS = {
    "TP1": LAYOUTS["TP1"],
    "EP2": RunLayout((1, 1, 2), {"expert_model_parallel_size": 2}),
    "TP2×EP2": RunLayout((2, 1, 1), {"expert_model_parallel_size": 2, "sequence_parallel": True}),
    "packed": LAYOUTS["packed"],
}
"""The same for models with experts, which may be shared by replicas and by tensor ranks."""
ACROSS = ("ipo", "aot", "sft", "wpo", "ld_dpo", "discopop", "f_alpha")
"""Losses for which a layout could matter: they look across pairs or at single tokens, divide by lengths, or amplify
rounding. They meet three layouts each, other losses one besides TP1; sigmoid meets all."""

CONVERTED = [("sigmoid", layout) for layout in ("TP1", "TP2+SP", "PP2", "DP2", "TP2×PP2")]
"""What the tests run from converted weights, and convert back."""


def layouts_of(case: str) -> dict[str, RunLayout]:
    """The layouts under which a case is run."""
    return EXPERT_LAYOUTS if case in EXPERT_CASES else LAYOUTS


def run_of(case: str, layout: str, folder: Path, **changes: Any) -> RunConfig:
    """The run of a case under a layout; the micro-batch size takes turns, as it must not change what is computed."""
    layouts = layouts_of(case)
    sizes, settings = layouts[layout]
    fitting = [size for size in (2, 1, 4) if (4 // sizes[2]) % size == 0]
    turn = list(CASES).index(case) + list(layouts).index(layout)
    keys = {"micro_batch_size": fitting[turn % len(fitting)], **settings, **changes}
    return recorded_run(case, sizes, folder, **keys)


def runs_of_the_suite() -> list[tuple[str, str]]:
    """Case and layout: every case at TP1, sigmoid under all layouts, the others under some, which take turns.

    Of the models with experts those with the balance loss meet all layouts of such models.
    """
    rotation = cycle([name for name in LAYOUTS if name != "TP1"])
    chosen = [(case, layout) for case in EXPERT_CASES for layout in EXPERT_LAYOUTS if layout == "TP1" or "aux" in case]
    for case in CASES:
        if case in EXPERT_CASES:
            continue
        # TRL ignores what sets `sigmoid_ls_ignored` apart: one run of ours is like the other.
        count = {"sigmoid": len(LAYOUTS) - 1, "sigmoid_ls_ignored": 0}.get(case, 3 if case in ACROSS else 1)
        others = [next(rotation) for _ in range(count)]
        chosen += [(case, layout) for layout in ("TP1", *others) if (case, layout) not in CONVERTED]
    return chosen
