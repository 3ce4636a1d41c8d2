"""The model card of a result: base model, data, settings and metrics, in the form of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mindspeed_dpo
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.untrusted.text_files import read_lines

CARD_FILE = "README.md"
_SHOWN_METRICS = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected", "win_rate",
                  "reward/score/mean", "response_length/mean", "grad_norm")  # fmt: skip
_METHODS = {
    "dpo": ("direct preference optimisation", "https://arxiv.org/abs/2305.18290"),
    "rm": ("reward modelling on preferences", "https://arxiv.org/abs/2203.02155"),
    "ray_online_dpo": ("online direct preference optimisation", "https://arxiv.org/abs/2402.04792"),
}
_UNINFORMATIVE = {
    *("output_dir", "save", "load", "data_path", "eval_data_path", "tokenizer_name_or_path", "model", "export_hf"),
    *("reference_cache_dir", "ray_address", "master_port", "lora_load", "resume_from"),
}


def model_card(run: RunConfig, num_steps: int, metrics: Mapping[str, Any]) -> str:
    """Return the text of the card; paths of the machine are left out, except for the last part of their names.

    Args:
        run: Settings of the run.
        num_steps: Steps that were done.
        metrics: Name -> last value.
    """
    method, paper = _METHODS[run.loop.stage]
    base, adapters = _name(run.actor.checkpoint.load), run.actor.adapters.is_on
    kind = "adapters for" if adapters else "the model"
    lines = [
        *_front_matter(run, base),
        f"# {run.name}",
        "",
        f"This folder holds {kind} {base}, trained by [{method}]({paper}) with mindspeed_dpo "
        f"{mindspeed_dpo.__version__}.",
        "",
        *_table("Data", ("set", "rows"), _data(run)),
        *_table("Metrics", ("metric", "after the last step"), _metrics(metrics, num_steps)),
        *_table("Settings", ("key", "value"), _settings(run)),
    ]
    return "\n".join(lines) + "\n"


def read_last_metrics(output_dir: Path) -> dict[str, Any]:
    """Return the last value of every metric of a run.

    Raises:
        OSError: The metrics cannot be read.
        MalformedDataError: A line is no JSON object.
    """
    last: dict[str, Any] = {}
    for number, line in read_lines(output_dir / METRICS_FILE):
        last.update(parse_json_object(line, f"{METRICS_FILE}, line {number}").plain())
    return last


def _front_matter(run: RunConfig, base: str) -> list[str]:
    """The metadata that the hub reads; JSON texts are YAML texts."""
    values = {
        "base_model": base,
        "library_name": "peft" if run.actor.adapters.is_on else "transformers",
        "pipeline_tag": "text-classification" if run.trains_reward_model else "text-generation",
        "tags": ["mindspeed_dpo", "reward-model" if run.trains_reward_model else "dpo"],
    }
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---", ""]


def _table(title: str, head: tuple[str, str], rows: Iterator[tuple[str, str]]) -> list[str]:
    cells = [" | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row) for row in rows]
    return [f"## {title}", "", f"| {' | '.join(head)} |", "|---|---|", *(f"| {row} |" for row in cells), ""]


def _data(run: RunConfig) -> Iterator[tuple[str, str]]:
    sets = {"training": run.actor.data.data_path, **(run.loop.eval_data_path or {})}
    for name, path in sets.items():
        for source in parse_data_path(path):
            meta = read_meta(source.prefix) or {}
            yield f"{name}: {_data_name(source.prefix)}", str(meta.get("rows", "unknown"))


def _data_name(prefix: str | Path) -> str:
    """The name of a set; the tokens of raw data have the name of their folder in the cache."""
    path = Path(prefix)
    return path.parent.name if path.name == "tokens" else path.name


def _metrics(metrics: Mapping[str, Any], num_steps: int) -> Iterator[tuple[str, str]]:
    yield "steps", str(num_steps)
    for name, value in metrics.items():
        if name.removeprefix("eval/") in _SHOWN_METRICS:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)


def _settings(run: RunConfig) -> Iterator[tuple[str, str]]:
    tree = run.as_tree()
    given = {**tree["training"], **tree["actor_rollout_ref"]["actor_rollout"]}
    for key, value in given.items():
        setting = SETTINGS.get(key)
        is_default = setting is not None and not setting.is_required and setting.default == _as_tuple(value)
        if key not in _UNINFORMATIVE and not is_default:
            yield key, format_value(value)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _name(path: str | None) -> str:
    return real_path(path).name if path else "random weights"
