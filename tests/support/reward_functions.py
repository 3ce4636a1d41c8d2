"""Reward functions and judges for tests, good and bad; they run in a child process. No torch here.

The bad ones misbehave where a prompt says so, with the word `bad`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def vowels(completions: list[str]) -> tuple[int, ...]:
    return tuple(sum(letter in "aeiou" for letter in text) for text in completions)


def as_array(completions: list[str]) -> Any:
    return np.array([len(text) for text in completions], dtype=np.float32)


async def awaited(completions: list[str]) -> list[float]:
    return length(completions)


def written(prompts: Any, completions: Any, completion_ids: Any, notebook: list[str], **rest: Any) -> list[float]:
    """Write down how it was called."""
    call = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **rest}
    Path(notebook[0]).write_text(json.dumps(call), encoding="utf-8")
    return [0.0] * len(completions)


def only_labels(labels: list[int]) -> list[int]:
    return labels


def silent_on_short(completions: list[str]) -> list[float | None]:
    return [None if len(text) < 3 else 1.0 for text in completions]


def raising(prompts: list[str], completions: list[str]) -> list[float]:
    if _any_bad(prompts):
        raise ValueError("cannot read this\nand much more")
    return length(completions)


def leaving(prompts: list[str], completions: list[str]) -> list[float]:
    if _any_bad(prompts):
        sys.exit(3)
    return length(completions)


def too_few(prompts: list[str], completions: list[str]) -> list[float]:
    return length(completions)[_any_bad(prompts) :]


def no_list(prompts: list[str], completions: list[str]) -> Any:
    return 1.0 if _any_bad(prompts) else length(completions)


def dying(prompts: list[str], completions: list[str]) -> list[float]:
    if _any_bad(prompts):
        os._exit(7)
    return length(completions)


def killed(prompts: list[str], completions: list[str]) -> list[float]:
    if _any_bad(prompts):
        os.kill(os.getpid(), signal.SIGKILL)
    return length(completions)


def hanging(prompts: list[str], completions: list[str]) -> list[float]:
    if _any_bad(prompts):
        sys.stdout.write("hangs\n")
        threading.Event().wait()
    return length(completions)


def stuck(completions: list[str]) -> list[float]:
    """Hangs whatever the prompt."""
    return hanging(["bad"], completions)


def not_a_number(prompts: list[str], completions: list[str]) -> list[Any]:
    return _spoiled(prompts, completions, float("nan"))


def infinite(prompts: list[str], completions: list[str]) -> list[Any]:
    return _spoiled(prompts, completions, float("-inf"))


def huge(prompts: list[str], completions: list[str]) -> list[Any]:
    return _spoiled(prompts, completions, 1e300)


def text(prompts: list[str], completions: list[str]) -> list[Any]:
    return _spoiled(prompts, completions, "5")


def nothing(prompts: list[str], completions: list[str]) -> list[Any]:
    return _spoiled(prompts, completions, None)


def shouting(completions: list[str]) -> list[float]:
    sys.stdout.write("not a message\n" * 100_000)
    os.write(1, b"\x00\xff" * 1000)
    sys.stderr.write("not an error either\n")
    return length(completions)


def process_ids(completions: list[str]) -> list[int]:
    return [os.getpid()] * len(completions)


def sees_torch(completions: list[str]) -> list[bool]:
    return ["torch" in sys.modules] * len(completions)


def starts_a_program(completions: list[str]) -> list[int]:
    return [subprocess.Popen(["sleep", "600"]).pid] * len(completions)


def starts_a_daemon(completions: list[str]) -> list[int]:
    """A program that leads a session of its own and whose parent has ended."""
    script = "setsid sleep 600 >&- 2>&- & echo $!"
    shell = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return [int(shell.stdout)] * len(completions)


def chatty(completions: list[str]) -> list[float]:
    for number in range(200_000):
        sys.stdout.write(f"printed line {number}\n")
    return length(completions)


def raising_much(completions: list[str]) -> list[float]:
    raise ValueError("x" * 10_000_000)


def has_main_thread(completions: list[str]) -> list[bool]:
    return [threading.current_thread() is threading.main_thread()] * len(completions)


def longer(prompts: list[str], completions: list[tuple[str, str]]) -> list[int | None]:
    """A judge who likes length, and has no opinion on equals."""
    assert all(isinstance(pair, tuple) for pair in completions)
    return [None if len(a) == len(b) else int(len(b) > len(a)) for a, b in completions]


def first(completions: list[tuple[str, str]]) -> list[int]:
    """A judge who likes what he sees first."""
    return [0] * len(completions)


def undecided_on_bad(prompts: list[str], completions: list[tuple[str, str]]) -> list[int]:
    """A judge who fails, as TRL's do, at one comparison."""
    return [-1 if "bad" in prompt and "" not in pair else 0 for prompt, pair in zip(prompts, completions, strict=True)]


def verbose(prompts: list[str], completions: list[tuple[str, str]]) -> list[Any]:
    """A judge that returns words."""
    return ["0" if "bad" in prompt else 0 for prompt in prompts]


class Judge:
    """A judge with state, as TRL's are."""

    def judge(self, prompts: list[str], completions: list[tuple[str, str]], shuffle_order: bool = True) -> list[int]:
        assert shuffle_order
        return [int(len(b) > len(a)) for a, b in completions]


JUDGE = Judge()
NOT_A_FUNCTION = {"a": 1}


def _any_bad(prompts: list[str]) -> bool:
    return any("bad" in prompt for prompt in prompts)


def _spoiled(prompts: list[str], completions: list[str], value: Any) -> list[Any]:
    """The length of each completion, the last one of a bad prompt replaced."""
    values: list[Any] = length(completions)
    for index, prompt in enumerate(prompts):
        if "bad" in prompt and prompts[index + 1 : index + 2] != [prompt]:
            values[index] = value
    return values


def first_token(completion_ids: list[list[int]]) -> list[float]:
    return [float(tokens[0]) for tokens in completion_ids]
