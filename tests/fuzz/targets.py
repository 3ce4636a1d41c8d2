"""What is mutated and how it is read: one target for each kind of file."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import validate
from mindspeed_dpo.config.loading.compose import compose
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, open_text_columns
from mindspeed_dpo.data.indexed.column_group_metadata import check_fingerprints
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.pair_file import PairFile
from mindspeed_dpo.data.indexed.ranking_file import open_ranked
from mindspeed_dpo.data.preprocessing.cli import SettingsError
from mindspeed_dpo.data.preprocessing.readers import InputError
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import read_rollouts
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError, latest
from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.observability.external_trackers import TrackerError, _read_state
from mindspeed_dpo.observability.metrics_jsonl import MetricsFile
from mindspeed_dpo.trainers.early_stopping import EvaluationHistory
from mindspeed_dpo.untrusted.arrow_rows import read_arrow_rows, read_parquet_rows
from mindspeed_dpo.untrusted.dist_checkpoint import DistCheckpoint
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import read_json
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.torch_archive import read_torch_file
from mindspeed_dpo.untrusted.yaml_text import read_yaml
from mindspeed_dpo.weights import WeightsError, open_weights
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.format_detection import open_adapter
from mindspeed_dpo.weights.hf.hf_assets import tokenizer_vocab_size
from mindspeed_dpo.workers.rewards.sandbox_replies import CallFailed
from tests.fuzz.data_targets import DATA_TARGETS
from tests.fuzz.migration_targets import MIGRATION_TARGETS
from tests.fuzz.model_targets import MODEL_TARGETS
from tests.fuzz.reward_targets import REWARD_TARGETS
from tests.fuzz.structures import archive_member, header_text, pickle_instruction, word
from tests.fuzz.target import JSON, YAML, Target, drain

REFUSALS = (
    MalformedDataError, WeightsError, HfConfigError, CheckpointError, TokenFileError, ConfigError, TrackerError,
    InputError, SettingsError, CallFailed, MigrationError, FileNotFoundError,
)  # fmt: skip
"""The errors of this package, and that of a file which is not there."""


def _all_weights(folder: Path) -> None:
    source = open_weights(folder)
    model = source.model_config()
    for _, tensor in source.hf_tensors(model):
        tensor.float().sum()


def _adapter(root: Path) -> None:
    adapter = open_adapter(root / "adapter")
    adapter.check(open_weights(root / "hf").model_config())


def _iteration(root: Path) -> None:
    """Everything that resuming reads of an iteration."""
    folder = latest(root / "dist")
    from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import read_metadata

    metadata = read_metadata(folder)
    EvaluationHistory(**(metadata.get("progress") or {}))


def _distributed(root: Path) -> None:
    checkpoint = DistCheckpoint(root / "dist/iter_0000002")
    for key in checkpoint.tensors:
        checkpoint.read(key).float().sum()
    for key in checkpoint.objects:
        checkpoint.read_object(key)


def _common(root: Path) -> None:
    file = root / "dist/iter_0000002/common.pt"
    reject_foreign_objects(read_torch_file(file), file, "the checkpoint")


def _rollouts(root: Path) -> None:
    rollouts = read_rollouts(root / "dist/iter_0000002")
    if rollouts is not None:
        rollouts.samples.prompts()
        rollouts.samples.responses()


def _pairs(root: Path) -> None:
    pairs = PairFile(root / "pairs")
    check_fingerprints(root / "pairs", PAIR_COLUMNS, tokenizer_fingerprint="a")
    for row in range(len(pairs)):
        if all(pairs.lengths[row] > 0):
            pairs.row(row)
    pairs.numbers("margin")
    texts = open_text_columns(root / "pairs", len(pairs), PAIR_COLUMNS)
    if texts is not None:
        list(texts.texts())


def _rankings(root: Path) -> None:
    rankings = open_ranked(root / "rankings")
    for row in range(len(rankings)):
        if all(rankings.lengths[row, :3] > 0):
            rankings.row(row)
            rankings.scored(row)


def _resumed_metrics(root: Path) -> None:
    MetricsFile(root / "logs/metrics.jsonl", completed_steps=2).close()


def _config(root: Path) -> None:
    validate(compose("mine", (), root / "configs/rlxf"))


ITERATION = "dist/iter_0000002"
TARGETS = (
    Target(
        "safetensors", "hf/model-00001-of-00001.safetensors", lambda root: _all_weights(root / "hf"), (header_text,)
    ),
    Target("shard-index", "hf/model.safetensors.index.json", lambda root: _all_weights(root / "hf"), JSON),
    Target("bin", "bin/pytorch_model.bin", lambda root: _all_weights(root / "bin"), (archive_member,)),
    Target(
        "rank-file",
        "legacy/iter_0000001/mp_rank_00/model_optim_rng.pt",
        lambda root: _all_weights(root / "legacy"),
        (archive_member,),
    ),
    Target(
        "expert-shard",
        "experts/hf/model-00001-of-00001.safetensors",
        lambda root: _all_weights(root / "experts/hf"),
        (header_text,),
    ),
    Target(
        "expert-rank-file",
        "experts/legacy/iter_0000001/mp_rank_00/model_optim_rng.pt",
        lambda root: _all_weights(root / "experts/legacy"),
        (archive_member,),
    ),
    Target(
        "expert-metadata",
        f"experts/{ITERATION}/.metadata",
        lambda root: _all_weights(root / "experts/dist"),
        (pickle_instruction,),
    ),
    Target("tracker", "legacy/latest_checkpointed_iteration.txt", lambda root: _all_weights(root / "legacy")),
    Target("dist-metadata", f"{ITERATION}/.metadata", _distributed, (pickle_instruction,)),
    Target("dist-weights", f"{ITERATION}/.metadata", lambda root: _all_weights(root / "dist"), (pickle_instruction,)),
    Target("chunks", f"{ITERATION}/__0_0.distcp", _distributed),
    Target("common", f"{ITERATION}/common.pt", _common, (archive_member,)),
    Target("rollouts", f"{ITERATION}/rollouts.pt", _rollouts, (archive_member,)),
    Target("description", f"{ITERATION}/mindspeed_dpo.json", _iteration, JSON),
    Target("described-model", f"{ITERATION}/mindspeed_dpo.json", lambda root: _all_weights(root / "dist"), JSON),
    Target("dist-tracker", "dist/latest_checkpointed_iteration.txt", _iteration),
    Target("adapter-config", "adapter/adapter_config.json", _adapter, JSON),
    Target("adapter-weights", "adapter/adapter_model.safetensors", _adapter, (header_text,)),
    Target("token-index", "pairs_packed_chosen_labels_document.idx", _pairs, (word,)),
    Target("tokens", "pairs_packed_chosen_labels_document.bin", _pairs, (word,)),
    Target("rankings", "rankings_packed_between_lengths_document.bin", _rankings, (word,)),
    Target("text-columns", "pairs_packed_pair_columns.arrow", _pairs, (word,)),
    Target("data-meta", "pairs_packed_meta.json", _pairs, JSON),
    Target("json", "inputs/rows.json", lambda root: read_json(root / "inputs/rows.json"), JSON),
    Target("arrow", "inputs/plain.arrow", lambda root: drain(read_arrow_rows(root / "inputs/plain.arrow")), (word,)),
    Target(
        "arrow-packed",
        "inputs/packed.arrow",
        lambda root: drain(read_arrow_rows(root / "inputs/packed.arrow")),
        (word,),
    ),
    Target(
        "arrow-stream",
        "inputs/stream.arrow",
        lambda root: drain(read_arrow_rows(root / "inputs/stream.arrow")),
        (word,),
    ),
    Target(
        "parquet", "inputs/rows.parquet", lambda root: drain(read_parquet_rows(root / "inputs/rows.parquet")), (word,)
    ),
    Target("metrics", "logs/metrics.jsonl", _resumed_metrics, JSON),
    Target(
        "tracker-state", "logs/trackers/wandb.json", lambda root: _read_state(root / "logs/trackers/wandb.json"), JSON
    ),
    Target(
        "reference-cache",
        str(ReferenceCache("logs", "print", 3).path),
        lambda root: ReferenceCache(root / "logs", "print", 3).read(),
    ),
    Target("config", "configs/rlxf/mine.yaml", _config, YAML),
    Target("model-config", "configs/rlxf/model/tiny.yaml", _config, YAML),
    Target("yaml", "configs/rlxf/mine.yaml", lambda root: read_yaml(root / "configs/rlxf/mine.yaml"), YAML),
    Target("vocabulary", "tokenizer.json", tokenizer_vocab_size, JSON),
    *MODEL_TARGETS,
    *DATA_TARGETS,
    *MIGRATION_TARGETS,
    *REWARD_TARGETS,
)
