"""The redirects of the CPU: only the literal "cuda" is touched, and removing them restores every entry."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mindspeed_dpo.device import activate, cpu
from mindspeed_dpo.device.bf16_emulation import is_bf16_emulated

RANDOM = "megatron.core.tensor_parallel.random"
WIDENED = [("torch", "matmul"), ("torch", "bmm"), ("torch.Tensor", "matmul"), ("torch.Tensor", "__matmul__")]
ENTRIES = [
    ("torch.cuda", "current_device"),
    ("torch.cuda", "synchronize"),
    ("torch.cuda", "get_rng_state"),
    ("torch.cuda", "manual_seed"),
    ("torch", "zeros"),
    ("torch", "tensor"),
    ("torch.Tensor", "cuda"),
    ("torch.Tensor", "type"),
    ("torch", "compile"),
    *(WIDENED if is_bf16_emulated() else []),
    (RANDOM, "_get_cuda_rng_state"),
    (RANDOM, "_set_cuda_rng_state"),
]


def current() -> list[Any]:
    """What the redirected names mean now."""
    owners = {"torch.Tensor": torch.Tensor}
    return [getattr(owners.get(owner) or importlib.import_module(owner), name) for owner, name in ENTRIES]


@pytest.fixture
def untouched() -> Iterator[list[Any]]:
    """The entries of a process without redirects; what was installed before is installed again afterwards."""
    was_installed = bool(cpu._saved)
    cpu.remove()
    yield current()
    cpu.remove()
    if was_installed:
        cpu.install()


@pytest.fixture
def redirected(untouched: list[Any]) -> None:
    cpu.install()


def test_removing_restores_every_entry(untouched: list[Any]) -> None:
    cpu.install()
    assert [now is before for now, before in zip(current(), untouched, strict=True)] == [False] * len(ENTRIES)
    cpu.remove()
    assert [now is before for now, before in zip(current(), untouched, strict=True)] == [True] * len(ENTRIES)


def test_a_second_install_does_nothing(untouched: list[Any]) -> None:
    cpu.install()
    first = current()
    cpu.install()
    assert all(now is before for now, before in zip(current(), first, strict=True))
    cpu.remove()
    assert all(now is before for now, before in zip(current(), untouched, strict=True))


def test_removing_what_was_never_installed_does_nothing(untouched: list[Any]) -> None:
    cpu.remove()
    assert all(now is before for now, before in zip(current(), untouched, strict=True))


def test_nothing_else_of_torch_is_replaced(untouched: list[Any]) -> None:
    before = {owner: dict(vars(owner)) for owner in (torch, torch.cuda, torch.Tensor)}
    cpu.install()
    changed = {
        (getattr(owner, "__name__", ""), name)
        for owner, names in before.items()
        for name, value in vars(owner).items()
        if names.get(name) is not value
    }
    assert changed == {(owner.replace("torch.Tensor", "Tensor"), name) for owner, name in ENTRIES if owner != RANDOM}


@pytest.mark.parametrize("factory", ["zeros", "tensor"])
@pytest.mark.parametrize("device", ["cuda:0", "cpu", "meta", torch.device("cuda"), torch.device("cuda", 1), None])
def test_only_the_literal_cuda_is_redirected(
    factory: str, device: Any, untouched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, factory, lambda *args, **kwargs: kwargs)
        cpu.install()
        made = getattr(torch, factory)
        assert made([1], device=device, dtype=torch.int64) == {"device": device, "dtype": torch.int64}
        assert made([1], device="cuda", dtype=torch.int64) == {"device": "cpu", "dtype": torch.int64}
        assert made([1]) == {}
        cpu.remove()


def test_cuda_tensors_lie_on_the_host(redirected: None) -> None:
    assert torch.zeros(2, device="cuda").device.type == "cpu"
    assert torch.tensor([1], device="cuda").device.type == "cpu"
    assert torch.cuda.current_device() == torch.device("cpu")
    host = torch.ones(2)
    assert host.cuda() is host and host.cuda(0, non_blocking=True) is host
    torch.cuda.synchronize()


def test_the_type_string_says_cuda_and_conversion_still_works(redirected: None) -> None:
    assert torch.ones(1).type() == "torch.cuda.FloatTensor"
    assert torch.ones(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
    assert torch.ones(1).type(torch.int64).dtype == torch.int64


def test_functions_stay_as_written(redirected: None) -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    assert torch.compile(double) is double and torch.compile(mode="max-autotune")(double) is double


START_UP = {
    "a worker without the compiler and tokenizers": """
from mindspeed_dpo.device import activate
activate("cpu")
import mindspeed_dpo.workers.colocated_roles
needed, spared = ("megatron.core",), ("torch._inductor.compile_fx", "transformers", "ray")
""",
    "a driver without what only workers do": """
import mindspeed_dpo.trainers.build
needed, spared = ("ray",), ("megatron.core", "transformers", "datasets")
""",
}


@pytest.mark.parametrize("start", START_UP)
def test_a_process_does_not_wait_for_libraries_that_it_does_not_use(start: str) -> None:
    check = "import sys\nassert all(n in sys.modules for n in needed) and not any(n in sys.modules for n in spared)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", START_UP[start] + check], check=True)


def test_the_device_generator_is_that_of_the_host(redirected: None) -> None:
    random = importlib.import_module(RANDOM)
    torch.cuda.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    state = random._get_cuda_rng_state()
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(torch.rand(3), first)
    random._set_cuda_rng_state(state)
    assert torch.equal(torch.rand(3), first)


def test_activating_the_cpu_installs_the_redirects(untouched: list[Any]) -> None:
    accelerator = activate("cpu", local_rank=3)
    assert accelerator.kind == "cpu"
    assert torch.cuda.current_device() == torch.device("cpu")


def test_device_contexts_still_cover_what_is_redirected() -> None:
    # In a process of its own: torch notes once per process what a context covers.
    code = (
        "from mindspeed_dpo.device import activate; activate('cpu'); import torch\n"
        "with torch.device('meta'): print(torch.tensor([1]).device, torch.zeros(2).device)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["meta", "meta"]
