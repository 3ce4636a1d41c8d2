"""Records what a run is for its report: its plan, its machine, and the lengths of its training data."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mindspeed_dpo
from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from mindspeed_dpo.report.histograms import Histogram
from mindspeed_dpo.report.run_facts import RunFacts
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.trainers.run_inputs import RunInputs

PACKAGES = (
    *("torch", "torch_npu", "triton-ascend", "mindspeed", "megatron-core", "ray", "transformers", "tokenizers"),
    *("datasets", "numpy"),
)


def write_run_facts(inputs: RunInputs) -> None:
    """Write the facts to the run's folder.

    Raises:
        WriteError: The file cannot be written.
    """
    config, folder = inputs.config, Path(inputs.config.loop.output_dir)
    facts = RunFacts(
        plan=plan_lines(config),
        notes=list(config.notes),
        environment=environment(config.loop.device),
        lengths=_lengths(inputs),
        first_step=inputs.first_step,
    )
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        facts.write(folder)


def environment(device: str) -> dict[str, str]:
    """Return versions and machine by name; packages that are not installed are left out."""
    versions = {name: found for name in PACKAGES if (found := _version(name)) is not None}
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "driver": f"{socket.gethostname()}, {platform.platform()}, {os.cpu_count()} cores",
        "device": device,
        "mindspeed-dpo": mindspeed_dpo.__version__,
        "python": sys.version.split()[0],
        **versions,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lengths(inputs: RunInputs) -> Mapping[str, Histogram]:
    rows = inputs.splits.train
    if not isinstance(inputs.dataset, TrainEvalPairs):
        return length_histograms({"prompt": inputs.dataset.lengths()[rows]})
    lengths = inputs.dataset.lengths()[rows]
    columns = {"prompt": lengths[:, 0], "chosen": lengths[:, 1], "rejected": lengths[:, 2:].ravel()}
    return length_histograms(columns)


def length_histograms(columns: Mapping[str, NDArray[np.int32]]) -> dict[str, Histogram]:
    """Count lengths [n] int32 in tokens by name, all with the same bins; 0 is no response and is left out."""
    present = {name: lengths[lengths > 0] for name, lengths in columns.items() if (lengths > 0).any()}
    low = float(min((lengths.min() for lengths in present.values()), default=1))
    high = float(max((lengths.max() for lengths in present.values()), default=1))
    histograms = {}
    for name, lengths in present.items():
        found, counts = np.unique(lengths, return_counts=True)
        values = found.astype(float).tolist()
        histograms[name] = Histogram.of(values, low, high, weights=counts.tolist(), smallest_width=1)
    return histograms
