"""Opening a checkpoint cannot run code, whatever it names and wherever."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.restricted_pickle import read_pickle
from mindspeed_dpo.untrusted.torch_archive import read_torch_file
from mindspeed_dpo.weights import ParallelLayout, WeightsError, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.dist_source import DistSource
from tests.fuzz.seeds import EXPERTS_CONFIG, write_dist, write_hf

HfFolder = Callable[[str], Path]


class Command:
    """Pickles as a call of `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Getter:
    """Pickles as `getattr(os, ...)`, called again on what that gives."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return eval, (f"__import__('os').system('touch {self.marker}')",)


@pytest.fixture(params=["llama", "qwen3_moe"])
def rank_file(request: pytest.FixtureRequest, hf_folder: HfFolder, tmp_path: Path) -> Path:
    """A rank file of a model without and one with experts."""
    convert(ConversionRequest(hf_folder(request.param), tmp_path / "mg"))
    return tmp_path / "mg/iter_0000001/mp_rank_00/model_optim_rng.pt"


def plant(file: Path, where: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(file, weights_only=False)
    where(content)
    torch.save(content, file)


@pytest.mark.parametrize("evil", [Command, Getter])
def test_foreign_objects_in_args_are_tolerated_and_never_called(rank_file: Path, tmp_path: Path, evil: type) -> None:
    marker = tmp_path / "called"

    def where(content: dict[str, Any]) -> None:
        content["args"].tokenizer = evil(marker)
        content["args"].nested = {"deep": [evil(marker)]}

    plant(rank_file, where)
    source = open_weights(rank_file.parents[2])
    assert len(list(source.hf_tensors(source.model_config()))) in (39, 57)
    assert not marker.exists()


@pytest.mark.parametrize("place", ["model", "key", "tensor", "optimizer", "rng_state", "top"])
def test_foreign_objects_anywhere_else_stop_the_reading(rank_file: Path, tmp_path: Path, place: str) -> None:
    marker = tmp_path / "called"

    def where(content: dict[str, Any]) -> None:
        evil = Command(marker)
        if place == "model":
            content["model"]["x"] = evil
        elif place == "key":
            content["model"][(evil, 1)] = torch.ones(1)
        elif place == "tensor":
            content["model"]["decoder.final_layernorm.weight"] = evil
        elif place == "optimizer":
            content["optimizer"] = {"state": {0: {"exp_avg": [evil]}}}
        elif place == "rng_state":
            content["rng_state"] = [argparse.Namespace(x={"a": {1: evil}})]
        else:
            content["iteration"] = evil

    plant(rank_file, where)
    source = open_weights(rank_file.parents[2])
    with pytest.raises(WeightsError, match=r"model_optim_rng.pt.*(posix|nt)\.system"):
        source.model_config()
    assert not marker.exists()


def test_a_command_in_a_bin_file_is_refused(hf_folder: HfFolder, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((hf_folder("llama") / "config.json").read_bytes())
    torch.save({"model.norm.weight": torch.ones(2), "x": Command(tmp_path / "called")}, tmp_path / "pytorch_model.bin")
    source = open_weights(tmp_path)
    with pytest.raises(WeightsError, match=r"system"):
        source.check(source.model_config())
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_command_in_the_metadata_of_a_training_checkpoint_is_refused(
    family: str, hf_folder: HfFolder, tmp_path: Path
) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"a": Command(tmp_path / "called")}))
    (tmp_path / "metadata.json").write_text("{}")
    source = open_weights(tmp_path)
    assert isinstance(source, DistSource)
    with pytest.raises(WeightsError, match=r"metadata.*system"):
        source.check(open_weights(hf_folder(family)).model_config())
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("evil", ["common.pt", "__0_0.distcp", ".metadata"])
def test_a_command_in_a_training_checkpoint_of_experts_is_refused(evil: str, tmp_path: Path) -> None:
    write_dist(tmp_path / "dist", write_hf(tmp_path / "hf", EXPERTS_CONFIG))
    folder = tmp_path / "dist/iter_0000002"
    open_weights(folder).check(open_weights(tmp_path / "hf").model_config())
    if evil == ".metadata":
        metadata = pickle.loads((folder / evil).read_bytes())
        (key, *_) = [key for key in metadata.state_dict_metadata if "experts" in key]
        metadata.state_dict_metadata[key] = Command(tmp_path / "called")
        (folder / evil).write_bytes(pickle.dumps(metadata))
    else:
        plain = io.BytesIO()
        torch.save([Command(tmp_path / "called")], plain)
        padding = (folder / evil).stat().st_size - len(plain.getvalue())
        (folder / evil).write_bytes(plain.getvalue() + bytes(max(0, padding)))
    with pytest.raises((WeightsError, MalformedDataError)):
        reject_foreign_objects(read_torch_file(folder / "common.pt"), folder / "common.pt", "the checkpoint")
        source = open_weights(folder)
        list(source.hf_tensors(source.model_config()))
    assert not (tmp_path / "called").exists()


def rebuild(path: Path, pickle_bytes: bytes, storage: bytes = b"\0" * 16) -> Path:
    """A zip as torch.save writes it, with a pickle of our own making."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/data/0", storage)
    return path


def tensor_pickle(numel: int, size: int, offset: int = 0, stride: int = 1) -> bytes:
    """The pickle of a float tensor, with free numbers."""
    number = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + number(numel) + b"tQ"
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
        + b"(" + number(size) + b"t(" + number(stride) + b"t\x89}tR."
    )  # fmt: skip


def test_an_honest_tensor_is_read(tmp_path: Path) -> None:
    values = struct.pack("<4f", 1, 2, 3, 4)
    file = rebuild(tmp_path / "x.pt", tensor_pickle(4, 3, offset=1), values)
    assert read_torch_file(file).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tensor_pickle(5, 5), "16 bytes, expected 20"),
        (tensor_pickle(4, 5), "does not fit its storage"),
        (tensor_pickle(4, 4, offset=1), "does not fit its storage"),
        (tensor_pickle(4, 3, stride=2), "does not fit its storage"),
        (tensor_pickle(4, 2, offset=-1), "offset -1"),
        (b"\x80\x02cargparse\nNamespace\n(I1\nI2\ntR.", "damaged"),
        (b"", "damaged"),
    ],
)
def test_sizes_that_reach_beyond_the_file_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedDataError, match=words):
        read_torch_file(rebuild(tmp_path / "x.pt", content))


def test_a_pickle_cannot_change_classes_of_the_process(tmp_path: Path) -> None:
    # BUILD with a pair sets attributes on whatever is on the stack, here a class.
    file = tmp_path / "x.pkl"
    file.write_bytes(b"\x80\x02cargparse\nNamespace\nN}X\x04\x00\x00\x00evilK\x01s\x86b.")
    with pytest.raises(MalformedDataError, match="sets the state of a value"):
        read_pickle(file)
    assert not hasattr(argparse.Namespace, "evil")


def test_extra_state_may_be_bytes_as_parallel_layers_write_it(rank_file: Path, hf_folder: HfFolder) -> None:
    plant(
        rank_file, lambda content: content["model"].update({"decoder.layers.0.mlp.linear_fc1._extra_state": b"\x80x"})
    )
    source = open_weights(rank_file.parents[2])
    source.check(source.model_config())
    assert source.layout == ParallelLayout()  # type: ignore[attr-defined]
