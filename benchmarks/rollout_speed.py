"""Compare the rollout with Hugging Face's `generate` and with vLLM: tokens per second, same weights and sampling.

    python benchmarks/rollout_speed.py                     # both scenarios, three alternating rounds
    python benchmarks/rollout_speed.py --scenario equal --rounds 1 --batch 64 --decode-rows 64
    python benchmarks/rollout_speed.py --vllm-python /opt/vllm/bin/python

Each measurement runs in its own process, so that its peak memory can be read; the sides alternate, so that other
load on the machine affects all. vLLM is the engine of `rollout_engine: vllm`, with its messages and the loading of
weights before a generation. CPU seconds are reported as well as wall seconds, because other load affects them
less. The model is a 40M Llama with random weights, or with `--size 40m-moe` a Qwen3-MoE of 16 experts, of which four
compute a token, with 40M of its weights. Its next-token distribution is nearly uniform, so responses of mixed length
result from a set of stop tokens with total probability 1 / mean length, the same on both sides.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import Clock, Result, family_cpu_s, family_peak_mib, in_child, machine, median, spread
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM
from vllm_side import vllm
from workload import SIZES, Size

from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.weights import ParallelLayout, open_weights

NUM_RESPONSES, TEMPERATURE = 2, 0.7
SECONDS = ("wall_s", "cpu_s")
OURS, VLLM = "ours", "vllm"


@dataclass(frozen=True)
class Scenario:
    """Prompts and limits of one comparison; with `stops` = 0 stop tokens all responses have equal length."""

    prompts: int
    shortest: int
    longest: int
    new_tokens: int
    stops: int

    def draw(self, vocab_size: int) -> list[Tensor]:
        """Draw the prompts from a vocabulary, with lengths spread evenly on a logarithmic scale."""
        generator = torch.Generator().manual_seed(0)
        shares = torch.rand(self.prompts, generator=generator)
        lengths = (self.shortest * (self.longest / self.shortest) ** shares).round().int().tolist()
        return [torch.randint(self.stops, vocab_size, (n,), generator=generator) for n in lengths]


SCENARIOS = {
    # 1000 of 32 000 tokens are stop tokens: responses of 32 tokens on average, cut at three times that.
    "mixed": Scenario(prompts=128, shortest=16, longest=256, new_tokens=96, stops=1000),
    "equal": Scenario(prompts=16, shortest=256, longest=256, new_tokens=128, stops=0),
}


def main() -> None:
    """Measure in child processes and print the table; with --side, make one measurement."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), SIZES[options.size], options.dtype)
        for name in options.scenario:
            sides = [OURS, *options.peers]
            rounds = [{side: run(side, name, folder, options) for side in sides} for _ in range(options.rounds)]
            report(name, rounds, options)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--prompts", type=int, help="number of prompts, instead of the scenario's")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side, alternating")
    parser.add_argument("--batch", type=int, default=32, help="concurrent responses: our slots, and their batch size")
    parser.add_argument("--decode-rows", type=int, default=32, help="rows of our decoding passes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hf-cache", choices=("dynamic", "static"), default="dynamic")
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM, which is then measured as well")
    parser.add_argument("--vllm-arguments", default="{}", help="more arguments of its engine, as JSON")
    parser.add_argument("--peers", nargs="*", choices=("hf", VLLM), help="default: all that there are")
    parser.add_argument("--side", choices=(OURS, "hf", VLLM), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers is None:
        options.peers = ["hf", *([VLLM] if options.vllm_python else [])]
    return options


def save_model(folder: Path, size: Size, dtype: str) -> None:
    """Save a model with random weights; a response ends only at the stop tokens of its scenario."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(size.hf_config(), dtype=torch.float32).to(getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)


def run(side: str, name: str, folder: str, options: argparse.Namespace) -> Result:
    """Measure one side once, in a child process."""
    words = ["--side", side, "--scenario", name, "--folder", folder]
    for key in (
        "size", "batch", "decode_rows", "dtype", "threads", "hf_cache", "prompts", "vllm_python", "vllm_arguments",
    ):  # fmt: skip
        if getattr(options, key) is not None:
            words += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    return in_child(Path(__file__).resolve(), words, {"OMP_NUM_THREADS": str(options.threads)})


def measure(options: argparse.Namespace) -> Result:
    """Load the model, warm up with a few tokens, and measure one run over all prompts."""
    scenario = replace(SCENARIOS[options.scenario[0]], **({"prompts": options.prompts} if options.prompts else {}))
    side = {OURS: ours, "hf": hugging_face, VLLM: engine_of_vllm}[options.side]
    respond = side(Path(options.folder), scenario, options)
    prompts = scenario.draw(SIZES[options.size].vocab_size)
    respond(prompts[: options.batch // NUM_RESPONSES], 2)
    loaded = family_peak_mib()
    clock, before = Clock(), family_cpu_s()
    tokens = respond(prompts, scenario.new_tokens)
    seconds = {"wall_s": clock.read()["wall_s"], "cpu_s": family_cpu_s() - before}
    return {"tokens": tokens, **seconds, "peak_mib": family_peak_mib(), "warm_mib": loaded}


def ours(folder: Path, scenario: Scenario, options: argparse.Namespace) -> Any:
    """Return our generator, log-probabilities included, as a function (prompts, limit) -> number of response tokens."""
    source = open_weights(folder)
    config = source.model_config()
    weights = {
        name: t.clone() for name, t in source.local_tensors(config, ParallelLayout().placement(config.num_layers, 0, 0))
    }
    model = RolloutModel(config, weights, TensorGroup())
    settings = RolloutConfig(
        n_samples_per_prompt=NUM_RESPONSES, temperature=TEMPERATURE, rollout_slots=options.batch,
        decode_rows=options.decode_rows, max_tokens_to_oom=1_000_000,
    )  # fmt: skip

    def respond(prompts: list[Tensor], new_tokens: int) -> int:
        generator = Generator(
            model, settings, max_new_tokens=new_tokens, stop_ids=frozenset(range(scenario.stops)), seed=1
        )
        generator.generate(prompts, range(len(prompts)))
        return generator.work.response_tokens

    return respond


def hugging_face(folder: Path, scenario: Scenario, options: argparse.Namespace) -> Any:
    """Return `generate` as its documentation recommends it: batches sorted by length, left padding, sdpa, cache."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="sdpa").eval()
    pad = SIZES[options.size].vocab_size - 1
    stops = torch.arange(scenario.stops)
    extra: dict[str, Any] = {"eos_token_id": stops.tolist()} if scenario.stops else {"eos_token_id": None}
    if options.hf_cache == "static":
        extra |= {"cache_implementation": "static", "disable_compile": True}

    def respond(prompts: list[Tensor], new_tokens: int) -> int:
        ordered = sorted(prompts, key=len)
        per_call = options.batch // NUM_RESPONSES
        total = 0
        for start in range(0, len(ordered), per_call):
            part = ordered[start : start + per_call]
            width = max(map(len, part))
            ids = torch.stack([torch.nn.functional.pad(p, (width - len(p), 0), value=pad) for p in part])
            mask = torch.stack([(torch.arange(width) >= width - len(p)).long() for p in part])
            with torch.inference_mode():
                out = model.generate(
                    ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=True, temperature=TEMPERATURE,
                    top_k=0, num_return_sequences=NUM_RESPONSES, use_cache=True, pad_token_id=pad, **extra,
                )[:, width:]  # fmt: skip
            is_stop = torch.isin(out, stops)
            ends = is_stop.int().argmax(1) + 1
            total += int(torch.where(is_stop.any(1), ends, out.shape[1]).sum())
        return total

    return respond


def engine_of_vllm(folder: Path, scenario: Scenario, options: argparse.Namespace) -> Any:
    """Return vLLM's engine as it generates in a run."""
    longest = scenario.longest + scenario.new_tokens
    generate = vllm(
        folder, options.vllm_python, options.dtype, options.batch, longest, json.loads(options.vllm_arguments)
    )
    sampling = {"temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0, "stop_token_ids": list(range(scenario.stops))}

    def respond(prompts: list[Tensor], new_tokens: int) -> int:
        return generate(prompts, {**sampling, "max_tokens": new_tokens}, NUM_RESPONSES)

    return respond


def report(name: str, rounds: list[dict[str, Result]], options: argparse.Namespace) -> None:
    """Print the medians of all sides and of the ratios within a round."""
    table = Table(title=f"{options.size}, {name}: {SCENARIOS[name]}")
    for column in ("", "tokens/s wall", "tokens/s CPU", "tokens", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")

    def rates(side: str, key: str) -> list[float]:
        return [one[side]["tokens"] / one[side][key] for one in rounds]

    for side in (OURS, *options.peers):
        speed = [f"{median(rates(side, key)):.1f}" for key in SECONDS]
        amounts = [f"{median([one[side][key] for one in rounds]):.0f}" for key in ("tokens", "peak_mib")]
        table.add_row(side, *speed, *amounts)
    for peer in options.peers:
        ratios = [[own / other for own, other in zip(rates(OURS, key), rates(peer, key), strict=True)]
                  for key in SECONDS]  # fmt: skip
        memory = median([one[OURS]["peak_mib"] / one[peer]["peak_mib"] for one in rounds])
        table.add_row(f"ours by {peer}", *map(spread, ratios), "", f"{memory:.2f}x")
    table.caption = (
        f"{options.rounds} round(s), {options.prompts or SCENARIOS[name].prompts} prompts, batch {options.batch}, "
        f"decode_rows {options.decode_rows}, {options.dtype}, {options.threads} thread(s); {machine(transformers)}"
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
