"""A worker process before it has a device: its meeting point, what MindSpeed gets, whose layout leads."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.worker_process import PortInUseError, WorkerProcess, megatron_settings
from tests.unit.workers.pairs import random_run


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield listener.getsockname()[1]


def process(port: int | None, pool: str = "actor_rollout") -> WorkerProcess:
    run: Any = SimpleNamespace(loop=SimpleNamespace(master_port=port), pools={"actor_rollout": (1,), "ref": (1,)})
    return WorkerProcess(run, pool, ".")


def test_a_taken_port_is_named(taken_port: int) -> None:
    with pytest.raises(
        PortInUseError, match=rf"master_port={taken_port} is in use on 127.0.0.1; choose another, or null"
    ):
        process(taken_port).rendezvous_address("127.0.0.1")


def test_without_a_port_none_is_taken_on_one_machine_and_any_free_one_between_machines() -> None:
    assert process(None).rendezvous_address("127.0.0.1").startswith(f"/proc/{os.getpid()}/fd/")
    host, port = process(None).rendezvous_address("127.0.0.2").rsplit(":", 1)
    assert host == "127.0.0.2" and 0 < int(port) < 65536


def test_a_configured_port_is_used() -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        free = probe.getsockname()[1]
    assert process(free).rendezvous_address("127.0.0.1") == f"127.0.0.1:{free}"


def test_the_next_pool_meets_one_port_higher(taken_port: int) -> None:
    with pytest.raises(PortInUseError, match=f"master_port={taken_port} is in use"):
        process(taken_port - 1, pool="ref").rendezvous_address("127.0.0.1")


def test_leaving_before_joining_does_nothing() -> None:
    process(None).leave()


@pytest.mark.parametrize(("layout", "varies"), [((1, 1, 1), False), ((2, 2, 1), True)])
def test_mindspeed_gets_the_sizes_of_the_role(layout: tuple[int, int, int], varies: bool, tmp_path: Path) -> None:
    role = random_run(tmp_path, layout, seq_length=128, global_batch_size=4, micro_batch_size=2).actor
    assert megatron_settings(role) == {
        "seq_length": 128,
        "num_attention_heads": 4,
        "tensor_model_parallel_size": layout[0],
        "variable_seq_lengths": varies,
    }


@pytest.mark.parametrize("has_experts", [True, False])
def test_replicas_that_share_experts_are_independent_for_a_dense_model(has_experts: bool) -> None:
    place = Topology.of(4, tp=1, pp=2, ep=2).place(1)
    role: Any = SimpleNamespace(model=SimpleNamespace(has_experts=has_experts))
    context: Any = WorkerContext(SimpleNamespace(), place, SimpleNamespace())  # type: ignore[arg-type]
    seen = context.place_of(role)
    assert seen.topology.replicas_share_experts == has_experts and (seen == place) == has_experts
    assert (seen.dp_rank, seen.topology.dp, seen.pp_rank) == (1, 2, 0)
