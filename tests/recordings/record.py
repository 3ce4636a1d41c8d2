"""Records TRL's DPOTrainer on the tiny model of this folder, in float32 on one CPU core.

    python -m venv .venv-trl && .venv-trl/bin/pip install torch==2.13.0 trl==1.16.0 transformers==5.23.0
    .venv-trl/bin/python -m tests.recordings.record [--out DIR] [--cases sigmoid,ipo]

TRL needs an environment of its own. Its version matters: releases differ in label smoothing of `sigmoid`, constants of
the f-divergences, the reference side of `ld_alpha` and the handling of eos. Writes what `tests/recordings/data` holds
of every case: `cases/<case>.json`, for some `cases/<case>.final.safetensors`, and `float64/<case>.json`.
"""

from __future__ import annotations

import os
import tempfile

# Before the libraries are imported: no cache of precomputed reference log-probs, nothing from the network, no GPU.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="record-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import atexit
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.recordings import cases, trl_run
from tests.recordings.batches import fingerprint, of_case
from tests.recordings.distances import misses, update_norms
from tests.recordings.files import final_weights, in_float64, initial_weights, recording, write_compact
from tests.recordings.replay import distances, float64_entry, norms
from tests.recordings.training import Replayed, replay

TRACKER_PACKAGES = ("trl", "transformers", "tokenizers", "torch")


def entry(case: str, settings: dict[str, Any], recorded: Replayed) -> dict[str, Any]:
    """What is written of a recording."""
    return {
        "case": case,
        "versions": {name: version(name).split("+")[0] for name in TRACKER_PACKAGES},
        **settings,
        "tokens": fingerprint(of_case(settings)),  # TRL's own are held against these when it runs
        "steps": recorded.steps,
        "micro_batches": recorded.micro_batches,
        "gradient": {"step": recorded.gradient_step, "norms": norms(recorded.gradient)},
        "update": update_norms(recorded.final, initial_weights(settings)),
    }


def write(out: Path, case: str, settings: dict[str, Any], recorded: Replayed) -> str:
    """Write everything a recording consists of; the first and the last loss."""
    write_compact(out / "cases" / f"{case}.json", entry(case, settings, recorded))
    if case in cases.WITH_FINAL_WEIGHTS:
        tensors = {name: value.contiguous() for name, value in recorded.final.items()}
        save_file(tensors, out / "cases" / f"{case}.final.safetensors", {"format": "pt"})
    exact = float64_entry(recorded, replay(settings, torch.float64), initial_weights(settings))
    write_compact(out / "float64" / f"{case}.json", exact)
    return f"loss {recorded.steps[0]['loss']:.6f} .. {recorded.steps[-1]['loss']:.6f}"


def compared(case: str, recorded: Replayed) -> str:
    """How far TRL is here from what is stored; a complaint where that is further than any run may be."""
    actual = distances(recorded, recording(case), initial_weights(recording(case)), final_weights(case))
    worst = {tier: max(figures.values()) for tier, figures in actual.items()}
    missed = misses(actual, in_float64(case)["distance"])
    return f"first step {worst['first']:.1e}, ten steps {worst['run']:.1e} {'; '.join(missed)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="folder to write to; without it the result is compared with what is stored"
    )
    parser.add_argument("--cases", default=",".join(cases.CASES), help="comma-separated (default: all)")
    arguments = parser.parse_args()
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in arguments.cases.split(","):
        settings = cases.settings(case)
        recorded = trl_run.run(settings, os.environ["HF_HOME"])
        text = write(arguments.out, case, settings, recorded) if arguments.out else compared(case, recorded)
        print(f"{case:24} {text}", flush=True)


if __name__ == "__main__":
    main()
