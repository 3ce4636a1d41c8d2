"""Files and libraries that must exist before a run starts. Tests pass their own `exists` and need no files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mindspeed_dpo.config.issues import Issues, Violation
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.trackers import missing_libraries
from mindspeed_dpo.config.validation.path_advice import data_path_advice, missing_weights_advice
from mindspeed_dpo.storage.nearest_path import nearest_path_advice
from mindspeed_dpo.storage.write_errors import existing_parent

_MODEL_FOLDERS = ("load", "ref_model", "tokenizer_name_or_path", "reward_tokenizer", "judge_model")
"""Keys whose value may be meant as the name of a model on the hub."""
PAIR_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
PROMPT_COLUMNS = ("input_ids",)


def check_paths(run: RunConfig, exists: Callable[[str], bool], issues: Issues) -> None:
    """Report every path of the run for which `exists` returns False, and every library that is not installed."""
    libraries = [Violation((key,), message) for key, message in missing_libraries(run.loop)]
    issues.add_violations(libraries, run.actor, run)
    issues.add_violations(_missing_paths(run, run.actor, exists), run.actor, run)
    for role in (run.ref, run.reward):
        if role is not None and _has_missing_weights(role, run, exists):
            advice = missing_weights_advice(str(role.checkpoint.load))
            issues.add_violations([Violation(("load",), f"does not exist{advice}")], role, run)


def check_writable(run: RunConfig, issues: Issues) -> None:
    """Report every output folder that cannot be created or written, as far as permissions tell."""
    folders = {"output_dir": run.loop.output_dir, "save": run.actor.checkpoint.save}
    if run.ref is not None and run.actor.reference.reference == "cached" and not run.is_online:
        folders["reference_cache_dir"] = run.actor.reference.reference_cache_dir
    # A folder within output_dir is not reported a second time.
    obstacles = {key: message for key, path in folders.items() if (message := _write_obstacle(path))}
    violations = [Violation((key, "output_dir"), message) for key, message in obstacles.items()]
    issues.add_violations(violations, run.actor, run)


def _write_obstacle(path: str) -> str | None:
    parent = existing_parent(Path(path))
    if not parent.is_dir():
        return f"cannot be created: {parent} is a file; choose another folder"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"cannot be written: {parent} allows it to other users only; choose another folder"
    return None


def _has_missing_weights(role: RoleConfig, run: RunConfig, exists: Callable[[str], bool]) -> bool:
    """Whether the weights of a role do not exist, unless the same path is reported for the actor."""
    load = role.checkpoint.load
    checked = (run.actor.checkpoint.load, run.actor.reference.ref_model) if role.name == "ref" else ()
    return bool(load) and load not in checked and not exists(str(load))


def _missing_paths(run: RunConfig, actor: RoleConfig, exists: Callable[[str], bool]) -> Iterator[Violation]:
    single = {
        "load": actor.checkpoint.load,
        "resume_from": actor.checkpoint.resume_from,
        "ref_model": actor.reference.ref_model,
        "lora_load": actor.adapters.lora_load,
        "tokenizer_name_or_path": actor.data.tokenizer_name_or_path,
        "prompt_type_path": actor.data.prompt_type_path,
        "reward_tokenizer": actor.reward.reward_tokenizer,
        "judge_model": actor.reward.judge_model,
    }
    for key, path in single.items():
        if path and not exists(path):
            is_weights = key in _MODEL_FOLDERS
            advice = missing_weights_advice(path) if is_weights else nearest_path_advice(path)
            yield Violation((key,), f"does not exist{advice}")
    columns = PROMPT_COLUMNS if run.is_online else PAIR_COLUMNS
    missing = [path for path in data_files(actor.data.data_path, columns) if not exists(path)]
    if missing:
        yield Violation(("data_path",), f"has no file {missing[0]}{_advice(missing[0], run, exists)}")
    for name, path in (run.loop.eval_data_path or {}).items():
        missing = [path for path in data_files(path, columns) if not exists(path)]
        if missing:
            advice = _advice(missing[0], run, exists)
            yield Violation(("eval_data_path",), f"has no file {missing[0]} for set {name}{advice}")


def _advice(missing: str, run: RunConfig, exists: Callable[[str], bool]) -> str:
    """Return what to do about a token file that does not exist."""
    prefix = missing[: missing.rindex("_packed_")]
    return data_path_advice(prefix, run.is_online, exists) or "; create it with preprocess_data.py"


def data_files(data_path: str, columns: Iterable[str]) -> list[str]:
    """Return the files of the given columns for every prefix in `a`, `a,b` or `weight,a,weight,b`."""
    prefixes = [os.path.expanduser(word.strip()) for word in data_path.split(",") if not _is_number(word)]
    suffixes = [f"_packed_{column}_document.{extension}" for column in columns for extension in ("bin", "idx")]
    return [prefix + suffix for prefix in prefixes for suffix in suffixes]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
