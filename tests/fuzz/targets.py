"""What is mutated and how it is read: one target for each kind of file."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import validate
from mindspeed_dpo.config.loading.compose import compose
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, check_fingerprints, open_text_columns
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.pair_file import PairFile
from mindspeed_dpo.engine.checkpoint_files import CheckpointError, latest
from mindspeed_dpo.engine.rollout_checkpoint import read_rollouts
from mindspeed_dpo.observability.external_trackers import TrackerError, _read_state
from mindspeed_dpo.trainers.early_stopping import EvaluationHistory
from mindspeed_dpo.untrusted.arrow_files import read_arrow_rows, read_parquet_rows
from mindspeed_dpo.untrusted.dist_checkpoint import DistCheckpoint
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import parse_json_object, read_json, read_json_lines
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.torch_archive import read_torch_file
from mindspeed_dpo.untrusted.yaml_text import read_yaml
from mindspeed_dpo.weights import WeightsError, open_weights
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.format_detection import open_adapter
from mindspeed_dpo.weights.hf_assets import tokenizer_vocab_size
from tests.fuzz import seeds
from tests.fuzz.mutations import Mutation, mutate
from tests.fuzz.structures import (
    archive_member,
    header_text,
    json_snippet,
    json_value,
    pickle_instruction,
    within_gzip,
    word,
    yaml_snippet,
    yaml_value,
)
from tests.support.metrics import read_metrics

REFUSALS = (
    MalformedDataError, WeightsError, HfConfigError, CheckpointError, TokenFileError, ConfigError, TrackerError,
    FileNotFoundError,
)  # fmt: skip
"""The errors of this package, and that of a file which is not there."""
JSON: tuple[Mutation, ...] = (json_value, json_value, json_snippet)
YAML: tuple[Mutation, ...] = (yaml_value, yaml_snippet)


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: Name on the command line.
        file: Path of the file below the folder of all seeds.
        read: Reads it, as the package does, given the folder of all seeds.
        structural: The mutations that know the format.
    """

    name: str
    file: str
    read: Callable[[Path], Any]
    structural: tuple[Mutation, ...] = ()

    def mutated(self, data: bytes, number: int) -> bytes:
        """The mutation of a number; the same on every machine."""
        return mutate(data, random.Random(f"{self.name} {number}"), self.structural)


def write_seeds(root: Path) -> Path:
    """Write all seeds below a folder and return it."""
    hf = seeds.write_hf(root / "hf")
    seeds.write_bin(root / "bin")
    seeds.write_legacy(root / "legacy", hf)
    seeds.write_dist(root / "dist", hf)
    seeds.write_adapter(root / "adapter")
    seeds.write_pairs(root / "pairs")
    seeds.write_inputs(root / "inputs")
    seeds.write_logs(root / "logs")
    seeds.write_configs(root / "configs")
    (root / "tokenizer.json").write_text(
        '{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "c"}]}'
    )
    (root / "reply.json").write_text('{"values": [1.0, null, "nan"], "failed": "x"}')
    return root


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
    from mindspeed_dpo.engine.checkpoint_files import read_metadata

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
    check_fingerprints(root / "pairs", tokenizer_fingerprint="a")
    for row in range(len(pairs)):
        if all(pairs.lengths[row] > 0):
            pairs.row(row)
    pairs.numbers("margin")
    texts = open_text_columns(root / "pairs", len(pairs), PAIR_COLUMNS)
    if texts is not None:
        list(texts.texts())


def _config(root: Path) -> None:
    validate(compose("mine", (), root / "configs/rlxf"))


def _drain(rows: Any) -> None:
    for _ in rows:
        pass


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
    Target("text-columns", "pairs_packed_pair_columns.arrow", _pairs, (word,)),
    Target("data-meta", "pairs_packed_meta.json", _pairs, JSON),
    Target("json", "inputs/rows.json", lambda root: read_json(root / "inputs/rows.json"), JSON),
    Target("jsonl", "inputs/rows.jsonl", lambda root: _drain(read_json_lines(root / "inputs/rows.jsonl")), JSON),
    Target(
        "gzip",
        "inputs/rows.jsonl.gz",
        lambda root: _drain(read_json_lines(root / "inputs/rows.jsonl.gz", is_gzipped=True)),
        (within_gzip(JSON),),
    ),
    Target("arrow", "inputs/plain.arrow", lambda root: _drain(read_arrow_rows(root / "inputs/plain.arrow")), (word,)),
    Target(
        "arrow-packed",
        "inputs/packed.arrow",
        lambda root: _drain(read_arrow_rows(root / "inputs/packed.arrow")),
        (word,),
    ),
    Target(
        "arrow-stream",
        "inputs/stream.arrow",
        lambda root: _drain(read_arrow_rows(root / "inputs/stream.arrow")),
        (word,),
    ),
    Target(
        "parquet", "inputs/rows.parquet", lambda root: _drain(read_parquet_rows(root / "inputs/rows.parquet")), (word,)
    ),
    Target("metrics", "logs/metrics.jsonl", lambda root: read_metrics(root / "logs/metrics.jsonl"), JSON),
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
    Target(
        "reply",
        "reply.json",
        lambda root: parse_json_object((root / "reply.json").read_bytes(), "reply").sequence("values"),
        JSON,
    ),
)
