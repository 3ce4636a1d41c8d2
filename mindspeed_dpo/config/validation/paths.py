"""What must lie on the disk before a run starts. The test for existence is passed in, so that tests need no files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.trackers import missing_libraries
from mindspeed_dpo.config.validation.violation import Violation, report

PAIR_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
PROMPT_COLUMNS = ("input_ids",)


def check_paths(run: RunConfig, exists: Callable[[str], bool], findings: Issues) -> None:
    """Report every path of the run that `exists` denies, and every library that is not installed."""
    for key, what in missing_libraries(run.loop):
        report(run, run.actor, Violation((key,), what), findings)
    for wrong in _absent(run, run.actor, exists):
        report(run, run.actor, wrong, findings)
    if run.ref is not None:
        own = run.ref.checkpoint.load
        if own and own not in (run.actor.checkpoint.load, run.actor.reference.ref_model) and not exists(own):
            report(run, run.ref, Violation(("load",), "does not exist"), findings)
    if run.reward is not None:
        load = run.reward.checkpoint.load
        if load and not exists(load):
            report(run, run.reward, Violation(("load",), "does not exist"), findings)


def _absent(run: RunConfig, actor: RoleConfig, exists: Callable[[str], bool]) -> Iterator[Violation]:
    single = {
        "load": actor.checkpoint.load,
        "resume_from": actor.checkpoint.resume_from,
        "ref_model": actor.reference.ref_model,
        "lora_load": actor.adapters.lora_load,
        "tokenizer_name_or_path": actor.data.tokenizer_name_or_path,
        "prompt_type_path": actor.data.prompt_type_path,
        "reward_tokenizer": actor.reward.reward_tokenizer,
    }
    for key, path in single.items():
        if path and not exists(path):
            yield Violation((key,), "does not exist")
    columns = PROMPT_COLUMNS if run.is_online else PAIR_COLUMNS
    missing = [path for path in data_files(actor.data.data_path, columns) if not exists(path)]
    if missing:
        yield Violation(("data_path",), f"has no {missing[0]}; make it with preprocess_data.py")
    for name, path in (run.loop.eval_data_path or {}).items():
        missing = [path for path in data_files(path, columns) if not exists(path)]
        if missing:
            yield Violation(("eval_data_path",), f"has no {missing[0]} for set {name}; make it with preprocess_data.py")


def data_files(data_path: str, columns: Iterable[str]) -> list[str]:
    """The files of token columns of every prefix in `a`, `a,b` or `weight,a,weight,b`."""
    prefixes = [os.path.expanduser(word.strip()) for word in data_path.split(",") if not _is_number(word)]
    ends = [f"_packed_{column}_document.{ending}" for column in columns for ending in ("bin", "idx")]
    return [prefix + end for prefix in prefixes for end in ends]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
