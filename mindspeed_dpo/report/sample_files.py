"""Sample responses of online runs, and margins of evaluated pairs of offline runs, as their files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindspeed_dpo.report.histograms import Histogram
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import parse_json_object, read_json_object
from mindspeed_dpo.untrusted.text_files import has_file

SAMPLES_FILE = "samples.jsonl"
MARGINS_FILE = "eval_margins.json"
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """A response to a prompt, for example `Sample(20, 3, "2+2?", "4", 1.0, "chosen", 5)`.

    Attributes:
        step: Step of the run.
        row: Row of the prompt.
        prompt: Its text.
        response: Text of the response.
        score: What decided its role; None if it could not be scored.
        role: "chosen", "rejected", both, or "" for neither.
        num_tokens: Length of the response; None in files of older versions.
    """

    step: int
    row: int
    prompt: str
    response: str
    score: float | None
    role: str
    num_tokens: int | None


@dataclass(frozen=True)
class ExamplePair:
    """A pair of texts and its margin, for example `ExamplePair(-1.5, "2+2?", "4", "5")`."""

    margin: float
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PairMargins:
    """Margins of the pairs of an evaluation, for example `PairMargins(100, Histogram(0.0, 1.0, [3, 5]), [])`.

    Attributes:
        step: Steps completed.
        margins: Chosen minus rejected reward of the evaluated pairs.
        examples: Texts of the pairs with the smallest and the largest margins, by margin.
    """

    step: int
    margins: Histogram
    examples: Sequence[ExamplePair]


def read_samples(folder: Path) -> list[Sample]:
    """Read the complete lines of the last MiB of samples.jsonl.

    Raises:
        FileNotFoundError: The run has none.
        MalformedDataError: It is no file, or a line is not what a run writes; the message names the file.
    """
    path = folder / SAMPLES_FILE
    has_file(path)
    with path.open("rb") as file:
        start = max(path.stat().st_size - _TAIL_BYTES, 0)
        file.seek(start)
        lines = file.read().split(b"\n")
    # The first may be cut, the last is being written.
    return [_sample(parse_json_object(line, str(path))) for line in lines[1 if start else 0 : -1]]


def _sample(record: JsonObject) -> Sample:
    return Sample(
        step=record.integer("step"),
        row=record.integer("row"),
        prompt=str(record["prompt"]) if "prompt" in record else "",
        response=str(record["response"]) if "response" in record else "",
        score=record.number("score", None),
        role=record.text("role", ""),
        num_tokens=record.integer("num_tokens", None),
    )


def read_pair_margins(folder: Path) -> PairMargins:
    """Read the margins of the last evaluation.

    Raises:
        FileNotFoundError: The run has none.
        MalformedDataError: The file is damaged; the message names it.
    """
    content = read_json_object(folder / MARGINS_FILE)
    examples = [
        ExamplePair(one.number("margin"), *(str(one.get(key, "")) for key in ("prompt", "chosen", "rejected")))
        for one in content.objects("examples")
    ]
    return PairMargins(content.integer("step"), Histogram.read(content.section("margins")), examples)
