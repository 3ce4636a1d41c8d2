"""The forms of rows with prompts, for online DPO; rows with preferences give their prompts."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.data.indexed.column_group import LABELS
from mindspeed_dpo.data.recognition.row_columns import MESSAGES, NUMBER, TEXT, TEXTS, RowColumns
from mindspeed_dpo.data.recognition.row_forms import PromptReading, RowForm, prompt_columns

_TRUTHS = ("answer", "solution", "ground_truth", "labels")


def prompt_forms(columns: RowColumns) -> list[RowForm]:
    """Return every form with a prompt that the columns may have."""
    found = [form for prompt in prompt_columns(columns) for form in _of_prompt(columns, prompt)]
    return found or [*_of_chosen(columns)]


def _of_prompt(columns: RowColumns, prompt: PromptReading) -> Iterator[RowForm]:
    if prompt.key == "messages":
        yield RowForm(prompt.description, "PPOSharegptStyleInstructionHandler", prompt.map_keys)
        return
    truth = next((name for name in _TRUTHS if _is_complete(columns, name)), None)
    if truth is None:
        yield RowForm(prompt.description, "PPOAlpacaStyleInstructionHandler", prompt.map_keys)
        return
    yield RowForm(
        f"{prompt.description} with the ground truth {truth}",
        "R1AlpacaStyleInstructionHandler",
        {**prompt.map_keys, "response": truth},
        {"dataset_additional_keys": (LABELS,)},
    )


def _is_complete(columns: RowColumns, name: str) -> bool:
    return columns.has(name, TEXT, NUMBER, TEXTS) and len(columns.values(name)) == len(columns.rows)


def _of_chosen(columns: RowColumns) -> Iterator[RowForm]:
    """The prompts of rows with two dialogues: the chosen one without its last response."""
    if columns.has("chosen", MESSAGES) and columns.are_dialogues("chosen"):
        tags = columns.tags("chosen")
        keys = {"messages": "chosen", **({"tags": tags} if tags else {})}
        yield RowForm("the dialogue chosen without its last response", "PPOSharegptStyleInstructionHandler", keys)
