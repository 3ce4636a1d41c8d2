"""The vLLM process over a stand-in of vLLM: requests, and how its end, its silence and its refusals are reported."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.vllm_engine.engine_process import EngineFailure, EngineProcess, EngineSettings
from mindspeed_dpo.vllm_engine.shared_weights import SharedWeights
from tests.support.vllm_python import stand_in_python

MODEL = ModelConfig(
    num_layers=1, hidden_size=8, ffn_hidden_size=12, num_attention_heads=2, num_query_groups=2, kv_channels=4,
    vocab_size=11, max_position_embeddings=32, untie_embeddings_and_output_weights=True,
)  # fmt: skip
SAMPLING = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 4,
    "stop_token_ids": [2], "ignore_eos": True, "logprobs": 0, "detokenize": False,
}  # fmt: skip
HANG_S, PATIENCE_S = 2.0, 300.0
"""Seconds until a process that hangs is given up, and what one that works may take on a busy machine."""
Start = Callable[..., EngineProcess]


@pytest.fixture(scope="module")
def weights() -> SharedWeights:
    shared = SharedWeights(MODEL, "float32", torch.device("cpu"))
    for number, place in enumerate(shared.places):
        shared.tensor(place.name).fill_(number)
    return shared


@pytest.fixture
def start(tmp_path: Path, weights: SharedWeights) -> Iterator[Start]:
    """Starts an engine; what it has started is gone afterwards."""
    started: list[EngineProcess] = []

    def begin(
        wait: bool = True, timeout_s: float = PATIENCE_S, silence_s: float = PATIENCE_S, **arguments: Any
    ) -> EngineProcess:
        python, log = str(stand_in_python(tmp_path)), tmp_path / "logs" / "vllm.log"
        engine = EngineProcess(EngineSettings(python, arguments, timeout_s, PATIENCE_S, log, {}, silence_s))
        started.append(engine)
        if wait:
            assert engine.start(places(weights), weights.descriptor) == "0.0.stand-in"
        return engine

    yield begin
    for engine in started:
        engine.close()
        assert not psutil.pid_exists(engine.pid)


def places(weights: SharedWeights) -> list[Any]:
    return [[place.name, place.dtype, place.shape, place.offset] for place in weights.places]


def generate(engine: EngineProcess, version: int, seeds: list[list[int]]) -> Any:
    request = {"version": version, "prompts": [[5]] * len(seeds), "seeds": seeds, "sampling": SAMPLING}
    return engine.ask("generate", request)


def test_responses_come_in_the_order_of_the_request_and_follow_from_their_seeds(start: Start) -> None:
    engine = start()
    assert engine.ask("load", {"version": 3})["version"] == 3
    responses = generate(engine, 3, [[7, 8], [9, 7]]).objects("responses")
    assert len(responses) == 4 and responses[0]["tokens"] == responses[3]["tokens"] != responses[1]["tokens"]
    for response in responses:
        assert len(response["logps"]) == len(response["tokens"]) <= 4
        assert response["ended"] == (response["tokens"][-1] == 2)


def test_a_version_that_the_engine_does_not_hold_is_refused_and_it_goes_on(start: Start) -> None:
    engine = start()
    with pytest.raises(EngineFailure, match="version 1 is to generate, the engine holds None"):
        generate(engine, 1, [[1]])
    engine.ask("load", {"version": 1})
    with pytest.raises(EngineFailure, match="version 2 is to generate, the engine holds 1"):
        generate(engine, 2, [[1]])
    assert len(generate(engine, 1, [[1]]).objects("responses")) == 1


@pytest.mark.parametrize("call", ["load", "generate"])
def test_a_process_that_dies_is_named_at_once_with_its_last_words(start: Start, call: str) -> None:
    engine = start(die=call)
    with pytest.raises(
        EngineFailure, match=r"was killed by signal 9, as the kernel does when memory runs out; it last"
    ):
        engine.ask("load", {"version": 1})
        generate(engine, 1, [[1]])


def test_a_process_that_dies_between_two_requests_is_noticed(start: Start) -> None:
    engine = start(child=True)
    engine.check_alive()
    segment, temporary = Path(f"/dev/shm/stand_in_{engine.pid}"), psutil.Process(engine.pid).environ()["TMPDIR"]
    os.killpg(engine.pid, signal.SIGKILL)  # with the tracker of resources that multiprocessing starts
    engine._process.wait(5)
    assert segment.exists()
    with pytest.raises(EngineFailure, match=rf"process {engine.pid}.* was killed by signal 9"):
        engine.check_alive()
    assert not segment.exists() and not Path(temporary).exists()


def test_an_engine_that_makes_no_progress_is_named_after_its_timeout(start: Start) -> None:
    engine = start(hang="load", timeout_s=HANG_S)
    with pytest.raises(EngineFailure, match=r"hangs in load: no progress for 2 s; .* raise vllm\.timeout_s"):
        engine.ask("load", {"version": 1})


def test_a_process_that_says_nothing_and_does_nothing_is_named_long_before(start: Start) -> None:
    engine = start(freeze="load", silence_s=HANG_S)
    with pytest.raises(EngineFailure, match=r"hangs in load: it gave no sign of life for 2 s"):
        engine.ask("load", {"version": 1})


def test_a_process_that_is_stopped_is_named_and_ended(start: Start) -> None:
    engine = start(child=True, silence_s=HANG_S)
    child = psutil.Process(engine.pid).children(recursive=True)[0]
    segment, temporary = Path(f"/dev/shm/stand_in_{engine.pid}"), psutil.Process(engine.pid).environ()["TMPDIR"]
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(EngineFailure, match=rf"hangs in load: its process {engine.pid} is stopped"):
        engine.ask("load", {"version": 1})
    assert not psutil.pid_exists(engine.pid) and not psutil.wait_procs([child], timeout=60)[1]
    assert not segment.exists() and not Path(temporary).exists()


def test_a_process_that_runs_out_of_memory_says_what_to_change(start: Start) -> None:
    engine = start(out_of_memory="load")
    with pytest.raises(EngineFailure, match=r"in load: OutOfMemoryError: tried to allocate .*; lower vllm\.gpu_memory"):
        engine.ask("load", {"version": 1})


def test_a_worker_of_the_engine_that_is_killed_is_named(start: Start) -> None:
    engine = start(worker="load")
    with pytest.raises(EngineFailure, match=r"RuntimeError: cancelled; its worker .* was killed by signal 9, as the"):
        engine.ask("load", {"version": 1})


def test_arguments_that_vllm_does_not_know_are_refused_with_its_own_message(start: Start) -> None:
    engine = start(wait=False, gpu_memory_utilisation=0.5)
    with pytest.raises(EngineFailure, match="unexpected keyword argument 'gpu_memory_utilisation'"):
        engine.start([], os.memfd_create("empty"))


def test_a_weight_that_nothing_was_sent_for_stops_the_engine(start: Start) -> None:
    engine = start(lacks="model.visual.weight")
    with pytest.raises(EngineFailure, match=r"1 weights of vLLM's model were not among those sent, model\.visual"):
        engine.ask("load", {"version": 1})


def test_log_probabilities_that_are_not_finite_are_reported(start: Start) -> None:
    engine = start(infinite=True)
    engine.ask("load", {"version": 1})
    with pytest.raises(EngineFailure, match="FloatingPointError: the model's log-probabilities are not finite"):
        generate(engine, 1, [[1]])


@pytest.mark.parametrize("level", [1, 2])
def test_weights_are_awake_before_they_are_loaded_and_the_cache_after(start: Start, level: int, tmp_path: Path) -> None:
    engine = start(enable_sleep_mode=True)
    for version in (1, 2):
        for _ in range(2):  # nothing is asked of an engine that sleeps already
            engine.ask("sleep", {"level": level})
        engine.ask("load", {"version": version})
        generate(engine, version, [[1]])
    engine.ask("sleep", {"level": level})
    # At the second level the weights of the same version are taken from the shared memory again.
    generate(engine, 2, [[1]])
    calls = [line for line in (tmp_path / "logs" / "vllm.log").read_text().splitlines() if line.startswith("stand-in:")]
    again = ["load"] * (level == 2)
    both = [f"sleep {level}", "wake weights", "load", "wake kv_cache", "generate"]
    last = [f"sleep {level}", "wake weights", *again, "wake kv_cache", "generate"]
    assert [call.removeprefix("stand-in: ") for call in calls] == [*both, *both, *last]


def test_the_process_ends_with_all_it_started_when_its_worker_is_gone(start: Start) -> None:
    engine = start(child=True)
    child = psutil.Process(engine.pid).children(recursive=True)[0]
    segment, temporary = Path(f"/dev/shm/stand_in_{engine.pid}"), psutil.Process(engine.pid).environ()["TMPDIR"]
    assert segment.exists() and Path(temporary).is_dir()
    engine._link.close()  # as the kernel does when the worker is killed
    _, alive = psutil.wait_procs([child, psutil.Process(engine.pid)], timeout=60)
    assert not alive and not segment.exists() and not Path(temporary).exists()


def test_weights_reach_hugging_face_names_row_by_row(weights: SharedWeights) -> None:
    shared = SharedWeights(MODEL, "float32", torch.device("cpu"))
    torch.manual_seed(0)
    sent: dict[str, Tensor] = {spec.name: torch.randn(spec.shape) for spec in shared.specs()}
    shared.begin()
    for name, tensor in sent.items():
        for start, stop in ((0, 1), (1, len(tensor))):
            for region in shared.regions(name, start, stop):
                region.tensor.copy_(tensor[start:stop])
    shared.finish()
    gate, up = sent["decoder.layers.0.mlp.linear_fc1.weight"].chunk(2)
    assert torch.equal(shared.tensor("model.layers.0.mlp.gate_proj.weight"), gate)
    assert torch.equal(shared.tensor("model.layers.0.mlp.up_proj.weight"), up)
    assert torch.equal(shared.tensor("lm_head.weight"), sent["output_layer.weight"])
    assert shared.digests() != weights.digests()


def test_weights_that_were_not_received_in_full_are_an_error() -> None:
    shared = SharedWeights(MODEL, "float32", torch.device("cpu"))
    shared.begin()
    *complete, last = shared.specs()
    for spec in complete:
        for region in shared.regions(spec.name, 0, spec.shape[0]):
            region.tensor.zero_()
    for region in shared.regions(last.name, 0, spec.shape[0] - 1):
        region.tensor.zero_()
    with pytest.raises(ValueError, match=f"1 weights were not received, {last.name} among them"):
        shared.finish()
