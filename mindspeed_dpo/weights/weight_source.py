"""The interface of everything that holds weights: `hf_source`, `legacy_source`, `dist_source` and merged adapters.

A source implements `read_slices`: the slices of one rule's Hugging Face tensors that a tensor-parallel rank needs.
Everything else is derived here: a rank's tensors in Megatron's form, and the full tensors in Hugging Face's.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.file_fingerprints import fingerprint_of
from mindspeed_dpo.weights.layer_placement import UNSHARDED, Placement, TPRank
from mindspeed_dpo.weights.name_mapping import RuleTable, TensorEntry, local_entries, model_entries

logger = logging.getLogger(__name__)

_MAX_LISTED = 8
_EXPERT = re.compile(r"\.experts\.")


class WeightSource(ABC):
    """Weights on disk, opened but not read.

    Attributes:
        path: The path that was opened.
        folder: The folder of the weight files: `path`, or one iteration in it.
        loosely: Skip missing tensors other than experts with a warning, and ignore unknown ones.
        drop_mtp_layers: Leave out layers that predict further tokens, instead of refusing weights that have them.
        keeps_dtypes: Refuse to join tensors of different data types into one; otherwise they become float32 or wider,
            which is exact, since all weights are cast later.
        decoder_only: Read a language model without its output layer, as a reward model starts from it.
        final_norm: For a reward model, whether its head reads normalised hidden states; otherwise the norm is ignored.
    """

    path: Path
    folder: Path
    loosely: bool = False
    drop_mtp_layers: bool = False
    keeps_dtypes: bool = False
    final_norm: bool = True
    decoder_only: bool = False

    @property
    @abstractmethod
    def is_reward_model(self) -> bool:
        """Whether the weights have a scalar score head instead of an output layer."""

    @abstractmethod
    def model_config(self) -> ModelConfig:
        """The architecture that the folder describes.

        Raises:
            WeightsError: The folder does not describe one.
        """

    @abstractmethod
    def weight_files(self) -> Sequence[Path]:
        """The files that hold the weights."""

    @abstractmethod
    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Names of the tensors that this model needs and are missing, and of those that it does not have.

        Raises:
            WeightsError: There are layers that predict further tokens, and they are not to be left out.
        """

    @abstractmethod
    def has(self, entry: TensorEntry) -> bool:
        """Whether the tensors of an entry are stored."""

    @abstractmethod
    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shapes of an entry's tensors with the model, without reading the tensors.

        Raises:
            WeightsError: A shape differs.
        """

    @abstractmethod
    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read the slices of an entry's Hugging Face tensors that a tensor-parallel rank needs.

        Call `check` first. The weights have the stored dtype and the shape of `hf_shapes` of the entry's layout, with
        `hf_range` along its `partition_dim`.

        Raises:
            WeightsError: A file is damaged.
        """

    def assets(self) -> Path | None:
        """The folder with config.json and tokenizer that belongs to the weights, if there is one."""
        return None

    def rules(self, model: ModelConfig) -> RuleTable:
        """The rules of all tensors that a model of this architecture has."""
        is_reward_model = self.is_reward_model or self.decoder_only
        return rules_for(model, reward=is_reward_model, final_norm=self.final_norm, head=not self.decoder_only)

    def ignored_rules(self, model: ModelConfig) -> RuleTable:
        """The rules of tensors that may be stored and are not read.

        MindSpeed-LLM stores an uninitialised output layer with its reward models.
        """
        read = {rule.mcore for rule in self.rules(model)}
        return tuple(rule for rule in rules_for(model) if rule.mcore not in read)

    def check(self, model: ModelConfig) -> None:
        """Compare names and shapes of the tensors with the model, without reading the tensors.

        Raises:
            WeightsError: Tensors are missing, unexpected or of another shape; the message names the first of them.
        """
        self._check_names(model)
        for entry in model_entries(self.rules(model), model):
            if self.has(entry):
                self.check_shapes(entry, model)

    def check_tied_copies(self, model: ModelConfig) -> None:  # noqa: B027 - most sources store nothing twice
        """Compare the stored copies of a tied embedding, which are read in full.

        Raises:
            WeightsError: Two copies differ.
        """

    def local_tensors(self, model: ModelConfig, placement: Placement) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights of one placement by local Megatron name, one tensor at a time.

        Only the slices that the rank needs are read. The shape of a tensor is its layout's `mcore_shape`, the dtype is
        the stored one, or float32 for weights of different dtypes that are joined. A tensor may be a view of a mapped
        file: copy it, do not write to it.

        Args:
            model: The architecture to load into, with its vocabulary padding.
            placement: The part of the model to read.

        Raises:
            WeightsError: A size is not divisible, or the weights do not fit the model.
        """
        rules = self.rules(model)
        for rule in rules:
            rule.layout.check_tp_size(model, placement.tp_size)
        self.check(model)
        return self._local_tensors(local_entries(rules, model, placement), model, placement.tp)

    def is_read(self, entry: TensorEntry) -> bool:
        """Whether an entry is part of what is read; only a missing one that is tolerated is not."""
        return not self.loosely or entry.rule.optional or self.has(entry)

    def local_tensor(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> Tensor:
        """Read the weights of one tensor, with the shape of its layout and the stored dtype; call `check` first.

        Raises:
            WeightsError: A file is damaged, or weights that are joined have different data types.
        """
        slices = self._with_one_dtype(self._read_or_zeros(entry, model, tp), entry)
        return entry.layout.to_mcore(slices, model, tp)

    def hf_tensors(self, model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """Yield all weights of the model by Hugging Face name, one rule at a time.

        The shape of a tensor is that of the layout's `hf_shapes`, without padding; the dtype is the stored one.

        Raises:
            WeightsError: The weights do not fit the model.
        """
        self.check(model)
        return self._hf_tensors(model)

    def fingerprint(self) -> str:
        """SHA-256 of names and contents of the weight files, in hexadecimal digits; the files are read once."""
        return fingerprint_of(self.weight_files(), self.folder)

    def _leave_out_mtp(self, names: Sequence[str]) -> None:
        """Log that these tensors of layers that predict further tokens are not read.

        Raises:
            WeightsError: Nothing says that they may be left out.
        """
        if not names:
            return
        held = f"{self.path} holds {len(names)} tensors of layers that predict further tokens (MTP): {_shorten(names)}"
        if not (self.drop_mtp_layers or self.loosely):
            raise WeightsError(
                f"{held}; such layers are not implemented. Set drop_mtp_layers=true (convert_ckpt.py: "
                "--drop-mtp-layers) to load the model without them; what is saved will not contain them"
            )
        logger.warning("%s; they are not read", held)

    def _check_names(self, model: ModelConfig) -> None:
        missing, unexpected = self.name_mismatches(model)
        problems = [
            f"{len(names)} tensors are {problem}: {_shorten(names)}"
            for problem, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        if not problems:
            return
        message = f"{self.path} does not hold this {model.num_layers}-layer model; {'; '.join(problems)}"
        # A layer that computes with some of its experts is never what a user wants.
        if not self.loosely or any(_EXPERT.search(name) for name in missing):
            raise WeightsError(message)
        logger.warning("%s; continuing, because the checkpoint is loaded loosely", message)

    def _local_tensors(
        self, entries: Iterable[tuple[str, TensorEntry]], model: ModelConfig, tp: TPRank
    ) -> Iterator[tuple[str, Tensor]]:
        for name, entry in entries:
            if self.is_read(entry):
                yield name, self.local_tensor(entry, model, tp)

    def _hf_tensors(self, model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        for entry in model_entries(self.rules(model), model):
            if not entry.hf_names:
                self._warn_if_dropped(entry, model)
            elif self.has(entry) or not self.loosely:
                yield from zip(entry.hf_names, self.read_slices(entry, model, UNSHARDED), strict=True)

    def _read_or_zeros(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read slices as `read_slices` does, or zeros for an optional tensor that is not stored."""
        if entry.rule.optional and not self.has(entry):
            return tuple(torch.zeros(shape) for shape in entry.layout.hf_shapes(model))
        return self.read_slices(entry, model, tp)

    def _with_one_dtype(self, slices: tuple[Tensor, ...], entry: TensorEntry) -> tuple[Tensor, ...]:
        """Give weights that are joined into one tensor the same data type."""
        dtypes = {tensor.dtype for tensor in slices}
        if len(dtypes) == 1:
            return slices
        if self.keeps_dtypes:
            raise WeightsError(
                f"{self.path}: {', '.join(entry.hf_names)} are joined but have different data types, "
                f"{', '.join(sorted(map(str, dtypes)))}; give --params-dtype"
            )
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        return tuple(tensor.to(wide) for tensor in slices)

    def _warn_if_dropped(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Warn about a tensor that Hugging Face cannot store, unless it is zero."""
        for tensor in self._read_or_zeros(entry, model, UNSHARDED):
            if bool(tensor.any()):
                logger.warning(
                    "%s: %s is %s and cannot be stored in a Hugging Face folder; it is dropped",
                    self.path,
                    entry.rule.mcore,
                    tensor.tolist(),
                )


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
