"""What every place that holds weights can do. The three places are `hf_source`, `legacy_source` and `dist_source`.

A source answers one question, `pieces`: the slices of the Hugging Face tensors behind a rule that one tensor-parallel
rank needs. Everything else follows here: a rank's tensors in Megatron's form, and the whole ones in Hugging Face's.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layouts import WHOLE, Cut, Kind, Shape
from mindspeed_dpo.weights.placement import Placement
from mindspeed_dpo.weights.rules import Entry, RuleTable, local_entries, model_entries

logger = logging.getLogger(__name__)

_LISTED = 8
_HASH_BLOCK_BYTES = 1 << 24


class WeightSource(ABC):
    """Weights on disk, opened but not read.

    Attributes:
        path: What was opened.
        folder: Where the weight files lie: the same, or one iteration in it.
        loosely: Leave out tensors the folder lacks, with a warning, and overlook unknown ones.
        final_norm: Of a reward model: whether its head reads normed hidden states. Otherwise the norm is overlooked.
    """

    path: Path
    folder: Path
    loosely: bool = False
    final_norm: bool = True

    @property
    @abstractmethod
    def is_reward_model(self) -> bool:
        """Whether the weights are those of a reward model: a scalar head instead of the vocabulary's."""

    @abstractmethod
    def model_config(self) -> ModelConfig:
        """The architecture the folder states.

        Raises:
            WeightsError: The folder does not say.
        """

    @abstractmethod
    def weight_files(self) -> Sequence[Path]:
        """The files that hold the weights."""

    @abstractmethod
    def unfit_names(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Names of tensors that are missing for this model, and of tensors that it has no place for."""

    @abstractmethod
    def has(self, entry: Entry) -> bool:
        """Whether the tensors behind an entry are there."""

    @abstractmethod
    def check_shapes(self, entry: Entry, model: ModelConfig) -> None:
        """Compare the shapes of an entry's tensors with the model, without reading them.

        Raises:
            WeightsError: A tensor has another shape than the model says.
        """

    @abstractmethod
    def pieces(self, entry: Entry, model: ModelConfig, cut: Cut) -> tuple[Tensor, ...]:
        """The slices of an entry's Hugging Face tensors that a tensor-parallel rank needs; `check` comes first.

        Raises:
            WeightsError: A file is damaged.
        """

    def assets(self) -> Path | None:
        """The folder with config.json and tokenizer that belongs to the weights, where there is one."""
        return None

    def rules(self, model: ModelConfig) -> RuleTable:
        """The table of the tensors that a model of this architecture has."""
        return rules_for(model, reward=self.is_reward_model, final_norm=self.final_norm)

    def overlooked(self, model: ModelConfig) -> RuleTable:
        """Tensors that may be there and are not read.

        MindSpeed-LLM stores an output layer with its reward models that never had a value.
        """
        read = {rule.mcore for rule in self.rules(model)}
        return tuple(rule for rule in rules_for(model) if rule.mcore not in read)

    def check(self, model: ModelConfig) -> None:
        """Compare names and shapes of the tensors with the model, without reading them.

        Raises:
            WeightsError: Tensors are missing, unexpected or of another shape; the sentence names the first of them.
        """
        self._check_names(model)
        for entry in model_entries(self.rules(model), model):
            if self.has(entry):
                self.check_shapes(entry, model)

    def check_copies(self, model: ModelConfig) -> None:  # noqa: B027 - most places store nothing twice
        """Compare tensors that the folder stores more than once; reads them whole.

        Raises:
            WeightsError: Two copies differ.
        """

    def local_tensors(self, model: ModelConfig, placement: Placement) -> Iterator[tuple[str, Tensor]]:
        """The tensors of one chunk of one rank, under Megatron's local names, one at a time.

        Only the slices that the rank needs are read. A tensor may be a view of a mapped file: copy it, do not
        write to it.

        Args:
            model: The architecture to load into; its vocabulary padding is applied.
            placement: The chunk.

        Raises:
            WeightsError: The sizes do not divide, or the weights do not fit the model.
        """
        rules = self.rules(model)
        for rule in rules:
            rule.kind.check_tp(model, placement.tp_size)
        self.check(model)
        return self._local_tensors(local_entries(rules, model, placement), model, placement)

    def hf_tensors(self, model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """All tensors of the model, whole, under Hugging Face's names, one rule at a time.

        Raises:
            WeightsError: The weights do not fit the model.
        """
        self.check(model)
        return self._hf_tensors(model)

    def fingerprint(self) -> str:
        """SHA-256 over names and content of the weight files, as hexadecimal digits."""
        digest = hashlib.sha256()
        for file in sorted(self.weight_files()):
            digest.update(f"{file.relative_to(self.folder)}:{file.stat().st_size};".encode())
            with file.open("rb") as stream:
                while block := stream.read(_HASH_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()

    def _check_names(self, model: ModelConfig) -> None:
        missing, unexpected = self.unfit_names(model)
        problems = [
            f"{len(names)} tensors are {what}: {_first(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        if not problems:
            return
        sentence = f"{self.path} does not hold this {model.num_layers}-layer model; {'; '.join(problems)}"
        if not self.loosely:
            raise WeightsError(sentence)
        logger.warning("%s (going on, as asked)", sentence)

    def _local_tensors(
        self, entries: Iterable[tuple[str, Entry]], model: ModelConfig, placement: Placement
    ) -> Iterator[tuple[str, Tensor]]:
        cut = Cut(placement.tp_rank, placement.tp_size)
        for name, entry in entries:
            if self.has(entry) or entry.rule.optional or not self.loosely:
                yield name, entry.rule.kind.to_mcore(self._pieces(entry, model, cut), model, cut)

    def _hf_tensors(self, model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        for entry in model_entries(self.rules(model), model):
            if not entry.hf_names:
                self._warn_of_loss(entry, model)
            elif self.has(entry) or not self.loosely:
                yield from zip(entry.hf_names, self.pieces(entry, model, WHOLE), strict=True)

    def _pieces(self, entry: Entry, model: ModelConfig, cut: Cut) -> tuple[Tensor, ...]:
        """As `pieces`, with zeros for an optional tensor that is not stored."""
        if entry.rule.optional and not self.has(entry):
            return tuple(torch.zeros(shape) for shape in entry.rule.kind.hf_shapes(model))
        return self.pieces(entry, model, cut)

    def _warn_of_loss(self, entry: Entry, model: ModelConfig) -> None:
        """Tell of a tensor that Hugging Face has no place for, unless it says nothing."""
        for tensor in self._pieces(entry, model, WHOLE):
            if bool(tensor.any()):
                logger.warning(
                    "%s: %s is %s and has no place in a Hugging Face folder; it is lost",
                    self.path,
                    entry.rule.mcore,
                    tensor.tolist(),
                )


def check_shape(found: Shape, expected: Shape, file: object, name: str) -> None:
    """Stop at a tensor of another shape than the model says.

    Raises:
        WeightsError: Naming the file, the tensor and both shapes.
    """
    if tuple(found) != tuple(expected):
        raise WeightsError(
            f"{file}: {name} is {list(found)}, but the model expects {list(expected)}; compare the sizes of the model "
            "with those the weights were made with"
        )


def check_mcore_shape(found: Shape, kind: Kind, model: ModelConfig, tp: int, file: object, name: str) -> None:
    """The same for a tensor in Megatron's form; a vocabulary may be padded to any number of rows.

    Raises:
        WeightsError: Naming the file, the tensor and both shapes.
    """
    expected = kind.mcore_shape(model, tp)
    if kind.padded and len(found) == 2 and found[0] * tp >= model.vocab_size:
        expected = (found[0], *expected[1:])
    check_shape(found, expected, file, name)


def check_dtypes(pieces: Sequence[Tensor], name: str) -> None:
    """Stop where tensors that become one have different data types.

    Raises:
        WeightsError: Naming the tensor and the types.
    """
    dtypes = {piece.dtype for piece in pieces}
    if len(dtypes) > 1:
        raise WeightsError(f"{name} is made of tensors of different data types: {sorted(map(str, dtypes))}")


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
