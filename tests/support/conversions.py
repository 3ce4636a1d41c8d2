"""The command lines around training, as end-to-end tests use them: pairs to tokens, weights there and back."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import convert_ckpt
from mindspeed_dpo.weights import open_weights
from tests.support.commands import succeed
from tests.support.runs import Layout


def preprocessing(raw: Path, tokenizer: Path, prefix: Path) -> list[str]:
    """Arguments of `preprocess_data.py` for rows of `prompt`, `chosen` and `rejected`."""
    return [
        f"--input={raw}",
        f"--output-prefix={prefix}",
        "--handler-name=AlpacaStylePairwiseHandler",
        '--map-keys={"prompt": "prompt", "query": "", "chosen": "chosen", "rejected": "rejected"}',
        "--prompt-type=chat_template",
        "--tokenizer-type=PretrainedFromHF",
        f"--tokenizer-name-or-path={tokenizer}",
        "--seq-length=256",
    ]


def to_mcore_arguments(source: Path, target: Path, layout: Layout = (1, 1, 1)) -> list[str]:
    """Arguments of `convert_ckpt.py` from a Hugging Face Llama to Megatron-core weights for a layout."""
    types = ["--load-model-type=hf", "--save-model-type=mg", "--model-type-hf=llama2"]
    sizes = [f"--target-tensor-parallel-size={layout[0]}", f"--target-pipeline-parallel-size={layout[1]}"]
    return [*types, *sizes, f"--load-dir={source}", f"--save-dir={target}"]


def to_mcore(source: Path, target: Path, layout: Layout = (1, 1, 1)) -> Path:
    """Convert, and return the target."""
    succeed("convert_ckpt.py", *to_mcore_arguments(source, target, layout))
    return target


def to_hf_arguments(checkpoints: Path, target: Path) -> list[str]:
    """Arguments of `convert_ckpt.py` from Megatron-core weights to a Hugging Face folder."""
    return ["--load-model-type=mg", "--save-model-type=hf", f"--load-dir={checkpoints}", f"--save-dir={target}"]


def convert_to_mcore(source: Path, target: Path, layout: Layout = (1, 1, 1)) -> Path:
    """`to_mcore` in this process."""
    assert convert_ckpt.main(to_mcore_arguments(source, target, layout)) == 0
    return target


def convert_to_hf(checkpoints: Path, target: Path) -> None:
    """Convert back in this process."""
    assert convert_ckpt.main(to_hf_arguments(checkpoints, target)) == 0


def assert_exported_completely(checkpoints: Path, folder: Path) -> None:
    """Convert back by the command; the result must be the same weights."""
    succeed("convert_ckpt.py", *to_hf_arguments(checkpoints, folder))
    assert_same_weights(checkpoints, folder)


def assert_same_weights(checkpoints: Path, folder: Path) -> None:
    """Transformers must load every weight of the checkpoint from the folder, and the model must compute."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    source = open_weights(checkpoints)
    saved, loaded = dict(source.hf_tensors(source.model_config())), model.state_dict()
    assert saved.keys() == loaded.keys()
    assert [name for name, tensor in saved.items() if not torch.equal(tensor, loaded[name])] == []
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()
