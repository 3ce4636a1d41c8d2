"""Runs recorded cases again in plain torch, without TRL, and checks what is stored of them.

    python -m tests.recordings.replay [--cases sigmoid,ipo]

In float32 the replay is held to the same bounds as a run of ours (`distances`); in float64 it has to give the stored
figures to 1e-9. Exits with 1 where either fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.recordings import cases
from tests.recordings.batches import fingerprint, of_case
from tests.recordings.distances import (
    UPDATE,
    Distances,
    distance,
    misses,
    of_norms,
    of_steps,
    of_update,
    update_norms,
)  # fmt: skip
from tests.recordings.files import final_weights, in_float64, initial_weights, recording
from tests.recordings.training import Replayed, replay

STORED = 1e-9
"""Of float64, between processors; a sum in another order moves it by 1e-15 or so, ten steps by a little more."""


def norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """L2 norm of each tensor."""
    return {name: float(torch.linalg.vector_norm(value.double())) for name, value in tensors.items()}


def distances(
    ours: Replayed, theirs: dict[str, Any], initial: Mapping[str, Tensor], final: Mapping[str, Tensor] | None
) -> Distances:
    """Of a replay from what is stored of a run and, where they are at hand, its final weights."""
    actual = of_steps(ours.steps, theirs["steps"], theirs["steps"][0])
    of_batches = _of_micro_batches(ours.micro_batches, theirs["micro_batches"], len(theirs["steps"]))
    for tier, figures in of_batches.items():
        actual[tier] |= figures
    tier = "first" if theirs["gradient"]["step"] == 0 else "run"
    actual[tier]["gradient norms"] = of_norms(norms(ours.gradient), theirs["gradient"]["norms"])
    actual["run"]["update norms"] = of_norms(update_norms(ours.final, initial), theirs[UPDATE])
    if final is not None:
        actual["run"][UPDATE] = of_update(ours.final, final, initial)
    return actual


def float64_entry(recorded: Replayed, exact: Replayed, initial: Mapping[str, Tensor]) -> dict[str, Any]:
    """What is written of a case's run in float64; all of the recording is at hand."""
    entry: dict[str, Any] = {
        "steps": exact.steps,
        "micro_batches": exact.micro_batches,
        "gradient": {"step": exact.gradient_step, "norms": norms(exact.gradient)},
        UPDATE: update_norms(exact.final, initial),
    }
    return {**entry, "distance": distances(recorded, entry, initial, exact.final)}


def complaints(case: str) -> list[str]:
    """What is amiss in the stored files of a case."""
    stored, exact = recording(case), in_float64(case)
    settings = cases.settings(case)
    initial = initial_weights(settings)
    actual = [f"{key} is not what cases.py says" for key in settings if stored[key] != settings[key]]
    if fingerprint(of_case(stored)) != stored["tokens"]:
        actual.append("the raw rows give other tokens than were recorded")
    again = replay(settings, torch.float64)
    for tier, figures in distances(again, exact, initial, None).items():
        actual += [f"float64 {tier} {name}: {apart:.1e}" for name, apart in figures.items() if not apart <= STORED]
    saved_weights = final_weights(case)
    if saved_weights is not None:
        own = of_update(saved_weights, again.final, initial)
        if distance(own, exact["distance"]["run"][UPDATE]) > STORED:
            actual.append(f"the recording's update is {own:.1e} from float64")
    in_float32 = distances(replay(settings, torch.float32), stored, initial, saved_weights)
    return actual + misses(in_float32, exact["distance"])


def _of_micro_batches(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], steps: int) -> Distances:
    """Loss and log-probabilities of single micro-batches; `loss` is named apart from that of a step."""
    flat = [[_flat(one) for one in records] for records in (ours, theirs)]
    actual = of_steps(flat[0], flat[1], flat[1][0])
    of_step = of_steps(*(records[: len(ours) // steps] for records in flat), flat[1][0])
    return {"first": of_step["run"], "run": actual["run"]}


def _flat(record: dict[str, Any]) -> dict[str, float]:
    columns = {name: value for name, value in record.items() if name not in ("rows", "loss")}
    values = {f"{name} {place}": value for name, column in columns.items() for place, value in enumerate(column)}
    return {"loss of a micro-batch": record["loss"], **values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(cases.CASES), help="comma-separated (default: all)")
    torch.set_num_threads(1)
    failed = 0
    for case in parser.parse_args().cases.split(","):
        actual = complaints(case)
        failed += bool(actual)
        print(f"{case:24} {'; '.join(actual) or 'ok'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
