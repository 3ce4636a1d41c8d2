"""The arguments and the result of `convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from mindspeed_dpo.weights.dtype_cast import TensorCounts
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE, ExpertStorage

Format = Literal["hf", "mg"]


@dataclass(frozen=True)
class ConversionRequest:
    """The arguments of one conversion.

    `ConversionRequest(Path("Llama-3.2-1B"), Path("ckpt"), layout=ParallelLayout(tp=8))` converts a Hugging Face folder
    to rank files for tensor-parallel size 8.

    Attributes:
        load_dir: The weights to read.
        save_dir: The folder to write. Hugging Face output goes to a subfolder if it is a Hugging Face folder itself.
        save_format: The format to write.
        load_format: The expected format of `load_dir`, or None for any.
        layout: How Megatron rank files divide the model.
        storage: How they hold experts.
        reads_extended: Whether the rank files to read divide experts as with `moe_tp_extend_ep`; None where they say
            so themselves.
        first_k_dense: The expected number of first layers without experts, or None for any.
        dtype: The dtype to cast to, or None to preserve each tensor's own.
        families: Names of the expected families, or None for any.
        reward_model: Whether the weights are expected to be those of a reward model.
        hf_config_dir: Folder with config.json and tokenizer, where the weights come without them.
        vocab_size: Vocabulary size without padding, where the weights do not record it.
        vocab_multiple: Pad the vocabulary to a multiple of this times the tensor-parallel size.
        num_layers: The expected number of layers including no-op layers, or None for any.
        adapter_dir: The adapters to merge into `load_dir`, unless that is a checkpoint of adapters.
        adapter_only: Write the adapters for PEFT instead of merged weights.
        expected_adapter: Expected settings of the adapters, by key.
        loosely: Tolerate missing and unknown tensors, with a warning.
        drop_mtp_layers: Leave out layers that predict further tokens, instead of refusing weights that have them.
        overwrite: Replace the content of `save_dir`.
    """

    load_dir: Path
    save_dir: Path
    save_format: Format = "mg"
    load_format: Format | None = None
    layout: ParallelLayout = field(default_factory=ParallelLayout)
    storage: ExpertStorage = DEFAULT_STORAGE
    reads_extended: bool | None = None
    first_k_dense: int | None = None
    dtype: torch.dtype | None = None
    families: frozenset[str] | None = None
    reward_model: bool = False
    hf_config_dir: Path | None = None
    vocab_size: int | None = None
    vocab_multiple: int | None = None
    num_layers: int | None = None
    adapter_dir: Path | None = None
    adapter_only: bool = False
    expected_adapter: Mapping[str, object] = field(default_factory=dict)
    loosely: bool = False
    drop_mtp_layers: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ConversionSummary:
    """The result of a conversion: the folder and the tensors in it.

    Attributes:
        path: The folder.
        counts: Number, size and dtypes of the tensors.
    """

    path: Path
    counts: TensorCounts
