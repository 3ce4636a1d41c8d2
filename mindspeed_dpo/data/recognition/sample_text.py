"""The first row as it is read, in a few lines for the console."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mindspeed_dpo.data.recognition.recognise import Recognised
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, PromptExample, RankedExample, Turn

_WIDTH = 100


def sample_lines(source: str, recognised: Recognised) -> list[str]:
    """Return lines with the form, the first row and how to change the reading."""
    form, example = recognised.form, recognised.example
    lines = [f"{source}: {form.description}", f"  {form.as_words()}"]
    lines += [f"  {name:<9} {_short(text)}" for name, text in _parts(example)]
    if recognised.first_dropped:
        num_dropped = recognised.num_rows - recognised.num_read
        lines.append(f"  {num_dropped} of the first {recognised.num_rows} rows are dropped: {recognised.first_dropped}")
    return lines


def _parts(example: PairExample | RankedExample | PromptExample) -> Iterator[tuple[str, str]]:
    yield "prompt", _prompt(example.prompt)
    if isinstance(example, PairExample):
        yield "chosen", _turns(example.chosen)
        yield "rejected", _turns(example.rejected)
    elif isinstance(example, RankedExample):
        for response, score in zip(example.responses, example.scores, strict=True):
            yield f"{'-' if score is None else format(score, 'g')}", _turns(response)
    elif example.reference is not None and not example.reference.is_empty:
        yield "reference", example.reference.content


def _prompt(prompt: Prompt) -> str:
    system = [Turn("system", prompt.system)] if prompt.system else []
    turns = [*system, *prompt.turns]
    return turns[0].content if len(turns) == 1 else " | ".join(f"{turn.role}: {turn.content}" for turn in turns)


def _turns(turns: Sequence[Turn]) -> str:
    return turns[0].content if len(turns) == 1 else " | ".join(f"{turn.role}: {turn.content}" for turn in turns)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
