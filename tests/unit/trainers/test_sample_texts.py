"""Responses and pairs as Markdown: every text stays in its cell, whatever it contains."""

from __future__ import annotations

import markdown

from mindspeed_dpo.report.sample_files import ExamplePair
from mindspeed_dpo.trainers.sample_texts import MAX_ROWS, pairs_as_markdown, responses_as_markdown

HOSTILE = "a | b\n| --- |\n# <script>x</script> *c* `d` \\| [e](f)"


def test_hostile_texts_stay_in_their_cells() -> None:
    record = {"prompt": "2+2?", "response": HOSTILE, "score": 0.5, "role": "chosen"}
    page = markdown.markdown(responses_as_markdown([record]), extensions=["tables", "fenced_code"])
    assert page.count("<tr>") == 2 and page.count("<td>") == 4
    assert not any(tag in page for tag in ("<script", "<em>", "<code>", "<h1>", "<a "))
    assert "0.5000" in page and "chosen" in page and "c&#42;" in page.replace("*c*", "&#42;c&#42;")


def test_a_response_without_a_score_and_too_many_rows() -> None:
    record = {"prompt": "p", "response": "r", "score": None, "role": ""}
    assert responses_as_markdown([record] * 100).count("\n") == 1 + MAX_ROWS
    assert responses_as_markdown([record]).splitlines()[2] == "| p | r |  |  |"


def test_pairs_have_their_margins() -> None:
    text = pairs_as_markdown([ExamplePair(-1.5, "2+2?", "4", "5")])
    assert text.splitlines() == ["| prompt | chosen | rejected | margin |", "| --- | --- | --- | --- |",
                                 "| 2+2? | 4 | 5 | -1.5000 |"]  # fmt: skip
