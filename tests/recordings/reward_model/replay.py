"""Runs the recorded cases of the RewardTrainer again in plain torch, in float32 or float64, without TRL and our code.

    python -m tests.recordings.reward_model.replay [--cases llama]

What is said of `tests.recordings.replay` holds here as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tests.recordings.batches import MicroBatch, fingerprint, of_case
from tests.recordings.distances import UPDATE, distance, misses, of_update
from tests.recordings.files import final_weights, in_float64, read_rows, recording, weights_in
from tests.recordings.llama import Model, config, logits
from tests.recordings.replay import STORED, distances
from tests.recordings.reward_model.cases import CASES, FOLDER, settings
from tests.recordings.training import Replayed, adamw, learning_rate


def model_folder(case: dict[str, Any]) -> Path:
    """The folder of the classifier that a case starts from."""
    return FOLDER / str(case["model"])


def initial_weights(case: dict[str, Any]) -> dict[str, Tensor]:
    """The classifier's weights before the first step, float32."""
    return weights_in(model_folder(case))


@lru_cache(maxsize=8)
def margins_of(data: str) -> list[float] | None:
    """The margin of every row of a data file; None where rows have none."""
    rows = read_rows(data)
    return [float(row["margin"]) for row in rows] if "margin" in rows[0] else None


def replay(case: dict[str, Any], dtype: torch.dtype) -> Replayed:
    """Run a case from the recorded initial weights, in this precision."""
    hyper, sizes, batches = case["hp"], config(model_folder(case)), of_case(case)
    weights = {name: value.to(dtype, copy=True).requires_grad_() for name, value in initial_weights(case).items()}
    optimizer, size = adamw(weights, hyper), hyper["accumulation"]
    steps, records, gradients = [], [], []
    for step in range(hyper["max_steps"]):
        group, logged = batches[step * size : (step + 1) * size], []
        for batch in group:
            loss, record, values = measure(batch, weights, sizes, case)
            (loss / size).backward()
            logged.append(values)
            records.append({"rows": batch.rows, **record})
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), hyper["max_grad_norm"], foreach=False)
        means = {name: sum(one[name] for one in logged) / size for name in logged[0]}
        tokens = (steps[-1]["num_tokens"] if steps else 0) + sum(int(batch.attention.sum()) for batch in group)
        rate = learning_rate(hyper, step)
        steps.append({**means, "grad_norm": norm.item(), "learning_rate": rate, "num_tokens": tokens})
        if not gradients:
            gradients.append((step, {name: value.grad.clone() for name, value in weights.items()}))
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return Replayed(steps, records, *gradients[0], {name: value.detach() for name, value in weights.items()})


def measure(
    batch: MicroBatch, weights: Mapping[str, Tensor], sizes: dict[str, Any], case: dict[str, Any]
) -> tuple[Tensor, dict[str, Any], dict[str, float]]:
    """The loss with its graph; what is recorded of a micro-batch; its share of the logged values."""
    # The score is the logit of a vocabulary of one, read at the last token.
    of_tokens, _ = logits(Model({**weights, "lm_head.weight": weights["score.weight"]}, sizes), batch.ids)
    scores = of_tokens[torch.arange(len(batch.ids)), batch.attention.sum(1) - 1, 0]
    chosen, rejected = scores.chunk(2)
    margins = margins_of(case["data"])
    target = torch.tensor([margins[row] for row in batch.rows] if margins else [0.0] * len(batch.rows))
    loss = -logsigmoid(chosen - rejected - target.to(scores)).mean()
    if case["options"]["center_rewards_coefficient"] is not None:
        loss = loss + case["options"]["center_rewards_coefficient"] * ((chosen + rejected) ** 2).mean()
    with torch.no_grad():
        logged = {
            "loss": loss, "min_reward": scores.min(), "mean_reward": scores.mean(), "max_reward": scores.max(),
            "accuracy": (chosen > rejected).to(scores).mean(), "margin": (chosen - rejected).mean(),
        }  # fmt: skip
    record = {"loss": loss.item(), "chosen_scores": chosen.tolist(), "rejected_scores": rejected.tolist()}
    return loss, record, {name: value.item() for name, value in logged.items()}


def complaints(case: str) -> list[str]:
    """What is amiss in the stored files of a case."""
    stored, exact = recording(case, FOLDER), in_float64(case, FOLDER)
    initial, final = initial_weights(stored), final_weights(case, FOLDER)
    actual = [f"{key} is not what cases.py says" for key, value in settings(case).items() if stored[key] != value]
    if fingerprint(of_case(stored)) != stored["tokens"]:
        actual.append("the raw rows give other tokens than were recorded")
    again = replay(stored, torch.float64)
    for tier, figures in distances(again, exact, initial, None).items():
        actual += [f"float64 {tier} {name}: {apart:.1e}" for name, apart in figures.items() if not apart <= STORED]
    if final is not None:
        own = of_update(final, again.final, initial)
        if distance(own, exact["distance"]["run"][UPDATE]) > STORED:
            actual.append(f"the recording's update is {own:.1e} from float64")
    return actual + misses(distances(replay(stored, torch.float32), stored, initial, final), exact["distance"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    torch.set_num_threads(1)
    failed = 0
    for case in parser.parse_args().cases.split(","):
        actual = complaints(case)
        failed += bool(actual)
        print(f"{case:24} {'; '.join(actual) or 'ok'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
