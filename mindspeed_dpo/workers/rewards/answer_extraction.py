"""The final answer in a response, for rewards that read nothing else."""

from __future__ import annotations

import re

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


def extracted_answer(text: str) -> str:
    """Return the text between the last <answer> and </answer>; all of it without such tags."""
    answers = _ANSWER.findall(text)
    return str(answers[-1]) if answers else text
