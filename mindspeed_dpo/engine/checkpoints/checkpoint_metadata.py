"""The types of the values in a checkpoint's metadata, checked where it is read so that no reader has to."""

from __future__ import annotations

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject

_EVALUATION_KEYS = {"metric", "counted", "waited", "step", "value", "folder"}


def check_metadata(metadata: JsonObject) -> None:
    """Check the type of every value that resuming reads, where it is present.

    Raises:
        MalformedDataError: A value is of another type; the message names file and key.
    """
    metadata.integer("iteration", minimum=0)
    for key in ("optimizer", "rng", "follower"):
        metadata.boolean(key, False)
    for key in ("reference", "output_dir", "online_method"):
        metadata.text(key, None)
    for key in ("topology", "totals"):
        sizes = metadata.section(key, None) or JsonObject({}, "")
        for name in sizes:
            sizes.integer(name, minimum=0)
    for key in ("sampling", "settings"):
        metadata.section(key, None)
    if "weights" in metadata:
        weights = metadata.section("weights")
        for role in weights:
            weights.text(role, None)
    for key in ("usual_margin", "usual_margin_std"):
        _check_number(metadata, key)
    _check_model(metadata)
    _check_adapters(metadata.section("adapters", None))
    _check_progress(metadata.section("progress", None))


def _check_model(metadata: JsonObject) -> None:
    model = metadata.section("model", None)
    if model is None:
        return
    try:
        ModelConfig.from_dict(model)
    except ValueError as error:
        raise MalformedDataError(f"{metadata.location}: {error}") from error


def _check_adapters(adapters: JsonObject | None) -> None:
    if adapters is not None:
        adapters.section("settings")
        adapters.text("base")
        adapters.text("base_mark")


def _check_progress(progress: JsonObject | None) -> None:
    """Check the summary of earlier evaluations."""
    if progress is None:
        return
    unknown = sorted(set(progress) - _EVALUATION_KEYS)
    if unknown:
        raise MalformedDataError(f"{progress.location}: {unknown[0]!r} is not a known key")
    for key in ("metric", "folder"):
        progress.text(key, None)
    for key in ("waited", "step"):
        progress.integer(key, None, minimum=0)
    for key in ("counted", "value"):
        _check_number(progress, key)


def _check_number(items: JsonObject, key: str) -> None:
    """Check for a number or null; a metric may be infinite or not a number."""
    value = items.get(key)
    if value is not None and type(value) not in (int, float):
        raise MalformedDataError(f"{items.location}: {key} must be a number, got a {type(value).__name__}")
