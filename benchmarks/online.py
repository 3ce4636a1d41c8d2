"""Compare complete steps of online DPO (generate, score, reference, update) with TRL's OnlineDPOTrainer.

    python benchmarks/online.py --peer-python ~/trl/bin/python
    python benchmarks/online.py --data dpo_en_demo.json --max-prompt 512 --max-new 128 --peer-python ~/trl/bin/python

Both sides have the same weights, prompts, sampling settings, dtype and threads, two responses per prompt, and the same
Python function as reward. Each measurement runs in its own process; within a round the sides run one after the other,
so that other load on the machine affects all of them. Without --peer-python only our side runs; `offline.py` shows how
to create that environment. There is no warm-up on either side.

Sides: `ours` is the trainer with its worker in one process, without Ray, and the reward function in its own process,
whose time and memory are included. `ours-vllm`, with --vllm-python, is the same with `rollout_engine: vllm`. `trl` is
TRL as installed, with Hugging Face's `generate` and its cache; `trl-tuned` has the allocator settings of our CPU
workers. Gradient checkpointing is off everywhere.

The model has random weights and a nearly uniform next-token distribution. Responses of different lengths result from
a set of stop tokens with total probability 1 / mean length, the same on both sides. The lengths are random, so the
table shows the number of tokens of each side.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import Clock, Result, family_cpu_s, family_peak_mib, in_child, machine, median, spread
from rich.console import Console
from rich.table import Table
from runs import online_run
from workload import SIZES, prepare_prompts

from mindspeed_dpo.device.host_allocator import EQUIVALENT_VARIABLES

HERE = Path(__file__).resolve()
OURS, WITH_VLLM, PEERS = "ours", "ours-vllm", ("trl", "trl-tuned")
TARGET = 3.0
REWARD = "online_reward.vowels"
# Methods of the roles and the phases that they are counted under.
PHASE_OF_METHOD = {"Rollout.generate": "generate", "Reward.score": "score", "Reference.log_probs": "reference"}
PHASES = ("generate", "score", "reference", "update")


def main() -> None:
    """Measure in child processes and print the tables; with --child, make one measurement."""
    options = parse()
    if options.child:
        print(json.dumps(ours(options)))
        return
    needs = {OURS: True, WITH_VLLM: options.vllm_python}
    sides = [side for side in options.sides if needs.get(side, options.peer_python)]
    with tempfile.TemporaryDirectory() as folder:
        rows = json.loads(options.data.read_text(encoding="utf-8")) if options.data else synthetic_rows()
        prepare_prompts(Path(folder), rows, SIZES[options.size], options.dtype, options.batch * options.steps,
                        options.max_prompt, options.mean_new)  # fmt: skip
        rounds = [{side: measure(side, folder, options) for side in sides} for _ in range(options.rounds)]
    report(rounds, options)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="rows in ShareGPT format; default: synthetic prompts")
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="prompts per step")
    parser.add_argument("--micro-batch", type=int, default=4, help="pairs per micro-batch of our update")
    parser.add_argument("--peer-micro-batch", type=int, help="TRL's device batch size, in prompts; default: --batch")
    parser.add_argument("--max-prompt", type=int, default=288, help="maximum tokens of a prompt")
    parser.add_argument("--max-new", type=int, default=96, help="maximum tokens of a response")
    parser.add_argument("--mean-new", type=int, default=32, help="mean tokens of a response; 0: all have max-new")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--decode-rows", type=int, default=32, help="rows of our decoding passes, and slots")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each side, alternating")
    parser.add_argument("--sides", nargs="+", choices=(OURS, WITH_VLLM, *PEERS), default=[OURS, WITH_VLLM, *PEERS])
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM")
    parser.add_argument("--vllm-arguments", default="{}", help="more arguments of its engine, as JSON")
    parser.add_argument("--peer-python", help="interpreter of an environment with TRL")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def synthetic_rows() -> list[dict[str, Any]]:
    """Return 256 prompts of 16 to 256 random words, with lengths spread evenly on a logarithmic scale."""
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 6))) for _ in range(2000)]
    counts = [round(16 ** (1 + dice.random())) for _ in range(256)]
    texts = [" ".join(dice.choices(words, k=count)) for count in counts]
    response = {"from": "gpt", "value": "yes"}
    return [
        {"conversations": [{"from": "human", "value": text}], "chosen": response, "rejected": response}
        for text in texts
    ]


def measure(side: str, folder: str, options: argparse.Namespace) -> Result:
    """Measure one side once, in a child process."""
    environment = {"OMP_NUM_THREADS": str(options.threads)}
    common = ("folder", "dtype", "threads", "steps", "batch", "max_prompt", "max_new", "temperature")
    given = {**vars(options), "folder": folder}
    if side in (OURS, WITH_VLLM):
        engine = ("vllm_python", "vllm_arguments") if side == WITH_VLLM else ()
        more = words(given, *common, "size", "micro_batch", "decode_rows", *engine)
        return in_child(HERE, ["--child", *more], environment)
    given["micro_batch"] = options.peer_micro_batch or options.batch
    tuned = {} if side == "trl" else EQUIVALENT_VARIABLES
    script = HERE.with_name("trl_online.py")
    return in_child(script, words(given, *common, "micro_batch"), {**environment, **tuned}, options.peer_python)


def words(given: dict[str, Any], *names: str) -> list[str]:
    """Format options as command-line arguments."""
    return [word for name in names for word in (f"--{name.replace('_', '-')}", str(given[name]))]


def ours(options: argparse.Namespace) -> Result:
    """Measure the trainer's own steps over all prompts once."""
    from one_process import online

    torch.set_num_threads(options.threads)
    keys: dict[str, Any] = {
        "micro_batch_size": options.micro_batch, "max_prompt_length": options.max_prompt,
        "temperature": options.temperature, "rollout_slots": options.decode_rows, "decode_rows": options.decode_rows,
    }  # fmt: skip
    if options.vllm_python:
        keys |= {
            "rollout_engine": "vllm", "vllm": {"python": options.vllm_python, **json.loads(options.vllm_arguments)},
        }  # fmt: skip
    loop = {"train_iters": options.steps, "global_batch_size": options.batch, "bf16": options.dtype == "bfloat16",
            "seq_length": options.max_prompt + options.max_new}  # fmt: skip
    trainer, process = online(online_run(options.folder, SIZES[options.size], keys, REWARD, **loop))
    process.spent.seconds.clear()
    clock, before = Clock(), family_cpu_s()
    steps = [trainer.step(step) for step in range(options.steps)]
    wall, cpu = clock.read()["wall_s"], family_cpu_s() - before
    phases = {phase: process.spent.seconds[method] for method, phase in PHASE_OF_METHOD.items()}
    return {
        "wall_s": wall, "cpu_s": cpu, **phases, "update": cpu - sum(phases.values()), "peak_mib": family_peak_mib(),
        "pairs": sum(step["pairs/count"] for step in steps), "first_loss": steps[0].get("loss", float("nan")),
        "prompt_tokens": options.batch * sum(step["prompt_length/mean"] for step in steps),
        "response_tokens": 2 * options.batch * sum(step["response_length/mean"] for step in steps),
    }  # fmt: skip


def report(rounds: list[dict[str, Result]], options: argparse.Namespace) -> None:
    """Print the medians of every side, then the ratios within a round and their target."""
    table = Table(title=f"online DPO, {options.size}, {options.dtype}, {options.threads} thread(s)")
    for column in ("", "pairs/CPU-s", "pairs/s", "tokens", *(f"{phase} CPU-s" for phase in PHASES), "peak MiB"):
        table.add_column(column, justify="right" if column else "left")
    for side in rounds[0]:
        each = [one[side] for one in rounds]
        rates = [f"{median([r['pairs'] / r[key] for r in each]):.3f}" for key in ("cpu_s", "wall_s")]
        phases = [f"{median([r[phase] for r in each]):.2f}" for phase in PHASES]
        tokens, peak = (f"{median([r[key] for r in each]):.0f}" for key in ("response_tokens", "peak_mib"))
        table.add_row(side, *rates, tokens, *phases, peak)
    first = rounds[0][next(iter(rounds[0]))]
    table.caption = (
        f"{options.rounds} round(s) of {options.steps} step(s) of {options.batch} prompts, "
        f"{first['prompt_tokens']:.0f} tokens; responses of at most {options.max_new} tokens, number shown; ours "
        f"{options.micro_batch} pairs per micro-batch, {options.decode_rows} rows per decoding pass; "
        f"{machine(transformers)}"
    )
    console = Console(width=120)
    console.print(table)
    for peer in (side for side in (WITH_VLLM, *PEERS) if {side, OURS} <= rounds[0].keys()):
        console.print(ratios(peer, rounds))


def ratios(peer: str, rounds: list[dict[str, Result]]) -> str:
    """Format the ratios of our side to a peer within a round."""
    pairs = [(one[OURS], one[peer]) for one in rounds]
    by = {
        key: [mine["pairs"] / mine[key] * theirs[key] / theirs["pairs"] for mine, theirs in pairs]
        for key in ("cpu_s", "wall_s", "generate", "reference", "update")
    }
    leaner = median([mine["peak_mib"] / theirs["peak_mib"] for mine, theirs in pairs])
    target = f" (target {TARGET}x)" if peer in PEERS else ""
    return (
        f"ours vs {peer}: {spread(by['cpu_s'])} pairs per CPU-second{target}, {spread(by['wall_s'])} per "
        f"second; generate {median(by['generate']):.2f}x, reference {median(by['reference']):.2f}x, "
        f"update {median(by['update']):.2f}x; peak memory {leaner:.2f}x"
    )


if __name__ == "__main__":
    main()
