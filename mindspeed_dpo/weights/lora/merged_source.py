"""Base weights with adapters merged in, as a source of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families.score_head import SCORE_RULES
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.lora.adapter_source import AdapterSource, CheckpointAdapter, quick_fingerprint
from mindspeed_dpo.weights.lora.peft import HEAD
from mindspeed_dpo.weights.lora.targets import EXPERT_PARAMETERS, FACTORS, expert_parameter
from mindspeed_dpo.weights.name_mapping import SCORE_HEAD, RuleTable, TensorEntry
from mindspeed_dpo.weights.slice_ranges import narrow, range_of
from mindspeed_dpo.weights.weight_source import WeightSource


class MergedSource(WeightSource):
    """The weights W + scale B A, computed in float32 as each slice is read."""

    def __init__(self, base: WeightSource, adapter: AdapterSource, path: Path | None = None) -> None:
        """Merge adapters into base weights.

        Args:
            base: The base weights.
            adapter: The adapters.
            path: The path to report, if not that of the base weights.

        Raises:
            WeightsError: The base is a reward model and the adapters lack its head, or the base is not the weights that
                the adapters were trained on.
        """
        self.base, self.adapter = base, adapter
        self.path, self.folder = path or base.path, base.folder
        if base.is_reward_model and not adapter.has_head:
            raise WeightsError(f"{base.path} is a reward model; adapters of a language model cannot be merged into it")
        if isinstance(adapter, CheckpointAdapter) and adapter.base_fingerprint != quick_fingerprint(base):
            raise WeightsError(
                f"{base.path} does not hold the weights that the adapters of {adapter.path} were trained on, which "
                f"were in {adapter.base}"
            )

    @property
    def is_reward_model(self) -> bool:
        """Whether the adapters come with a score head."""
        return self.adapter.has_head

    def model_config(self) -> ModelConfig:
        """The architecture of the base weights."""
        return self.base.model_config()

    def weight_files(self) -> Sequence[Path]:
        """The files of base weights and adapters."""
        return [*self.base.weight_files(), *self.adapter.files()]

    def fingerprint(self) -> str:
        """SHA-256 of the base weights' fingerprint and the adapter files, in hexadecimal digits."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        for file in self.adapter.files():
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def rules(self, model: ModelConfig) -> RuleTable:
        """The rules of the base weights, of which adapters of a reward model replace the head."""
        base, has_head = self.base, self.adapter.has_head
        base.final_norm = self.final_norm
        base.decoder_only = self.decoder_only or (has_head and not base.is_reward_model)
        return (*base.rules(model), *(SCORE_RULES if has_head and base.decoder_only else ()))

    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Missing and unexpected names of the base weights."""
        self.base.drop_mtp_layers = self.drop_mtp_layers or self.loosely
        return self.base.name_mismatches(model)

    def has(self, entry: TensorEntry) -> bool:
        """Whether the base weights, or the adapters with their head, hold the tensors of an entry."""
        return self._is_own(entry) or self.base.has(entry)

    def _is_own(self, entry: TensorEntry) -> bool:
        """Whether an entry is the score head that comes with the adapters."""
        return entry.rule.mcore == SCORE_HEAD and self.adapter.has_head

    def check(self, model: ModelConfig) -> None:
        """Check base weights and adapters against the model."""
        super().check(model)
        self.adapter.check(model)

    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shapes of the base weights with the model; those of the adapters are compared by `check`."""
        if not self._is_own(entry):
            self.base.check_shapes(entry, model)

    def check_tied_copies(self, model: ModelConfig) -> None:
        """Compare the copies of a tied embedding in the base weights."""
        self.base.check_tied_copies(model)

    def assets(self) -> Path | None:
        """The Hugging Face files of the base weights."""
        return self.base.assets()

    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read slices of the base weights and add those of the adapters; dtype and shape of each do not change."""
        if self._is_own(entry):
            head = self.adapter.tensors[HEAD]
            return (head[:, slice(*entry.layout.hf_range(model.hidden_size, model, tp))],)
        slices = self.base.read_slices(entry, model, tp)
        if entry.expert is not None:
            return self._merge_expert(slices, entry, model, tp)
        modules = [name.removesuffix(".weight") for name in entry.hf_names] or [""] * len(slices)
        return tuple(self._merge(base, name, entry, model, tp) for base, name in zip(slices, modules, strict=True))

    def _merge_expert(
        self, slices: tuple[Tensor, ...], entry: TensorEntry, model: ModelConfig, tp: TPRank
    ) -> tuple[Tensor, ...]:
        """Add the adapter of one expert to its matrices, of which the gate and the up matrix have one together."""
        assert entry.layer is not None
        linear = entry.rule.mcore.removesuffix(".weight").rsplit(".", 1)[-1]
        module = expert_parameter(entry.layer, EXPERT_PARAMETERS[linear])
        factors = [self.adapter.tensors.get(f"{module}.{factor}.weight") for factor in FACTORS]
        if factors[0] is None or factors[1] is None:
            return slices
        a, b = factors[0][entry.expert].float(), factors[1][entry.expert].float()
        delta = self.adapter.settings.scale_of_rank(len(a)) * (b @ a)
        shapes = entry.layout.hf_shapes(model)
        changes = [
            # Rank files may hold slices of experts.
            narrow([change], range_of(entry.layout, shape, 0, model, tp))
            for change, shape in zip(delta.split([shape[0] for shape in shapes]), shapes, strict=True)
        ]
        return tuple((base.float() + change).to(base.dtype) for base, change in zip(slices, changes, strict=True))

    def _merge(self, base: Tensor, module: str, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> Tensor:
        """Add the adapter's slice to a slice of the matrix of `module`."""
        a = self.adapter.tensors.get(f"{module}.lora_A.weight")
        if a is None:
            return base
        b, layout = self.adapter.tensors[f"{module}.lora_B.weight"], entry.layout
        if layout.partition_dim == 0:
            b = b[slice(*layout.hf_range(len(b), model, tp))]
        else:
            a = a[:, slice(*layout.hf_range(a.shape[1], model, tp))]
        return (base.float() + self.adapter.settings.scale * (b.float() @ a.float())).to(base.dtype)
