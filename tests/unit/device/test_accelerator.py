"""The face of a device: every kind, detection without initialising, a sentence for unknown kinds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from mindspeed_dpo.device import find_accelerator


@pytest.mark.parametrize(
    ("kind", "backend", "resource", "is_custom"),
    [
        ("cpu", "gloo", "CPU", False),
        ("cuda", "cpu:gloo,cuda:nccl", "GPU", False),
        ("npu", "cpu:gloo,npu:hccl", "NPU", True),
    ],
)
def test_each_kind_has_its_backend_and_its_ray_resource(
    kind: str, backend: str, resource: str, is_custom: bool
) -> None:
    actual = find_accelerator(kind)
    assert (actual.kind, actual.backend, actual.ray_resource, actual.is_custom_resource) == (
        kind, backend, resource, is_custom,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["gpu", "CPU", ""])
def test_an_unknown_kind_is_refused_with_the_supported_ones(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"device='{kind}' is unknown; choose auto, cpu, cuda, npu"):
        find_accelerator(kind)


def test_auto_prefers_npu_and_finds_it_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_npu").mkdir()
    (tmp_path / "torch_npu" / "__init__.py").write_text("raise ImportError('there is no CANN here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_accelerator("auto").kind == "npu"
    assert "torch_npu" not in sys.modules


@pytest.mark.parametrize(("has_cuda", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_no_npu(has_cuda: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert find_accelerator().kind == kind


def test_the_device_is_the_current_one_after_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]
    monkeypatch.setattr(torch.cuda, "set_device", lambda rank: current.__setitem__(0, rank))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    find_accelerator("cuda").set_device(3)
    find_accelerator("cpu").set_device(2)
    assert find_accelerator("cuda").device() == torch.device("cuda", 3)
    assert find_accelerator("cpu").device() == torch.device("cpu")


def test_a_random_state_that_is_restored_gives_the_same_numbers() -> None:
    accelerator = find_accelerator("cpu")
    state = accelerator.rng_state()
    first = torch.rand(4)
    assert not torch.equal(torch.rand(4), first)
    accelerator.set_rng_state(state)
    assert torch.equal(torch.rand(4), first)
