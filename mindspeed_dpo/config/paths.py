"""What must lie on the disk before a run starts. The test for existence is passed in, so that tests need no files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from mindspeed_dpo.config.checks import Wrong, report
from mindspeed_dpo.config.problems import Findings
from mindspeed_dpo.config.run import RoleConfig, RunConfig

PAIR_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")


def check_paths(run: RunConfig, exists: Callable[[str], bool], findings: Findings) -> None:
    """Report every path of the run that `exists` denies."""
    for wrong in _absent(run.actor, exists):
        report(run, run.actor, wrong, findings)
    if run.ref is not None:
        own = run.ref.checkpoint.load
        if own and own not in (run.actor.checkpoint.load, run.actor.reference.ref_model) and not exists(own):
            report(run, run.ref, Wrong(("load",), "does not exist"), findings)


def _absent(actor: RoleConfig, exists: Callable[[str], bool]) -> Iterator[Wrong]:
    single = {
        "load": actor.checkpoint.load,
        "resume_from": actor.checkpoint.resume_from,
        "ref_model": actor.reference.ref_model,
        "tokenizer_name_or_path": actor.data.tokenizer_name_or_path,
        "prompt_type_path": actor.data.prompt_type_path,
    }
    for key, path in single.items():
        if path and not exists(path):
            yield Wrong((key,), "does not exist")
    missing = [path for path in pair_files(actor.data.data_path) if not exists(path)]
    if missing:
        yield Wrong(("data_path",), f"has no {missing[0]}; make it with preprocess_data.py")


def pair_files(data_path: str) -> list[str]:
    """The files that the preprocessed pairs of every prefix in `a`, `a,b` or `weight,a,weight,b` consist of."""
    prefixes = [os.path.expanduser(word.strip()) for word in data_path.split(",") if not _is_number(word)]
    ends = [f"_packed_{column}_document.{ending}" for column in PAIR_COLUMNS for ending in ("bin", "idx")]
    return [prefix + end for prefix in prefixes for end in ends]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
