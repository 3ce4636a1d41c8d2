"""Compare the rollout with Hugging Face's `generate`: tokens per second for the same weights, prompts and sampling.

    python benchmarks/rollout_speed.py                     # both scenarios, three alternating rounds
    python benchmarks/rollout_speed.py --scenario equal --rounds 1 --batch 64 --decode-rows 64

Each measurement runs in its own process, so that its peak memory can be read; the two sides alternate, so that other
load on the machine affects both. CPU seconds are reported as well as wall seconds, because other load affects them
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
from measuring import Clock, Result, in_child, machine, median, peak_mib, spread
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM
from workload import SIZES, Size

from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.weights import ParallelLayout, open_weights

NUM_RESPONSES, TEMPERATURE = 2, 0.7
SECONDS = ("wall_s", "cpu_s")


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
            rounds = [
                {side: run(side, name, folder, options) for side in ("ours", "hf")} for _ in range(options.rounds)
            ]
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
    parser.add_argument("--side", choices=("ours", "hf"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def save_model(folder: Path, size: Size, dtype: str) -> None:
    """Save a model with random weights; a response ends only at the stop tokens of its scenario."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(size.hf_config(), dtype=torch.float32).to(getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)


def run(side: str, name: str, folder: str, options: argparse.Namespace) -> Result:
    """Measure one side once, in a child process."""
    words = ["--side", side, "--scenario", name, "--folder", folder]
    for key in ("size", "batch", "decode_rows", "dtype", "threads", "hf_cache", "prompts"):
        if getattr(options, key) is not None:
            words += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    return in_child(Path(__file__).resolve(), words)


def measure(options: argparse.Namespace) -> Result:
    """Load the model, warm up with a few tokens, and measure one run over all prompts."""
    scenario = replace(SCENARIOS[options.scenario[0]], **({"prompts": options.prompts} if options.prompts else {}))
    respond = {"ours": ours, "hf": hugging_face}[options.side](Path(options.folder), scenario, options)
    prompts = scenario.draw(SIZES[options.size].vocab_size)
    respond(prompts[: options.batch // NUM_RESPONSES], 2)
    loaded = peak_mib()
    clock = Clock()
    tokens = respond(prompts, scenario.new_tokens)
    return {"tokens": tokens, **clock.read(), "peak_mib": peak_mib(), "warm_mib": loaded}


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


def report(name: str, rounds: list[dict[str, Result]], options: argparse.Namespace) -> None:
    """Print the medians of both sides and of the ratio within a round."""
    table = Table(title=f"{options.size}, {name}: {SCENARIOS[name]}")
    for column in ("", "tokens/s wall", "tokens/s CPU", "tokens", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")

    def rates(side: str, key: str) -> list[float]:
        return [one[side]["tokens"] / one[side][key] for one in rounds]

    for side in ("ours", "hf"):
        speed = [f"{median(rates(side, key)):.1f}" for key in SECONDS]
        amounts = [f"{median([one[side][key] for one in rounds]):.0f}" for key in ("tokens", "peak_mib")]
        table.add_row(side, *speed, *amounts)
    ratios = [[own / other for own, other in zip(*(rates(side, key) for side in ("ours", "hf")), strict=True)]
              for key in SECONDS]  # fmt: skip
    memory = median([one["ours"]["peak_mib"] / one["hf"]["peak_mib"] for one in rounds])
    table.add_row("ratio", *map(spread, ratios), "", f"{memory:.2f}x")
    table.caption = (
        f"{options.rounds} round(s), {options.prompts or SCENARIOS[name].prompts} prompts, batch {options.batch}, "
        f"decode_rows {options.decode_rows}, {options.dtype}, {options.threads} thread(s); {machine(transformers)}"
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
