"""Decides which form raw rows have: of the forms that their columns allow, the one whose handler reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mindspeed_dpo.data.preprocessing.column_map import map_key_problems, resolve_columns
from mindspeed_dpo.data.preprocessing.column_mapping import MEDIA_COLUMNS
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS, Example, handler_problem
from mindspeed_dpo.data.preprocessing.readers import RawRow
from mindspeed_dpo.data.recognition.pair_forms import pair_forms
from mindspeed_dpo.data.recognition.prompt_forms import prompt_forms
from mindspeed_dpo.data.recognition.row_columns import RowColumns
from mindspeed_dpo.data.recognition.row_forms import RowForm
from mindspeed_dpo.data.tokenization.examples import MALFORMED, RowDropped
from mindspeed_dpo.untrusted.errors import QuotingError

NUM_SAMPLED = 100
"""Rows that are looked at."""
_MAX_MALFORMED_SHARE = 0.5

Kind = Literal["pair", "prompt"]


class UnrecognisedRowsError(QuotingError):
    """Raised for rows that have no known form, or several."""


@dataclass(frozen=True)
class Recognised:
    """A form and its first row: `Recognised(form, example, num_rows=100, num_read=98)`.

    Attributes:
        form: The form.
        example: The first row that it reads, as the handler reads it.
        num_rows: Rows that were looked at.
        num_read: Those of them that can be used.
        first_dropped: Why the first of the others cannot, empty if all can.
    """

    form: RowForm
    example: Example
    num_rows: int
    num_read: int
    first_dropped: str = ""


def recognise(
    rows: Iterable[RawRow],
    kind: Kind,
    source: str,
    handler_name: str = "",
    map_keys: Mapping[str, Any] | None = None,
) -> Recognised:
    """Return the form of rows.

    Args:
        rows: The raw rows, of which the first are read.
        kind: `pair` for rows with preferences, `prompt` for prompts.
        source: Name of the data, for messages.
        handler_name: The handler, if the user names it.
        map_keys: Columns that the user names; those of a named handler are then not guessed.

    Raises:
        UnrecognisedRowsError: No form or several fit; the message lists the columns, or the choices.
        ValueError: The handler or its columns do not exist.
    """
    first = tuple(itertools.islice(rows, NUM_SAMPLED))
    columns = RowColumns(tuple(row for row in first if not isinstance(row, RowDropped)))
    if not columns.names:
        reasons = [row.detail for row in first if isinstance(row, RowDropped)]
        reason = f"; the first cannot because of: {reasons[0]}" if reasons else ""
        raise UnrecognisedRowsError(f"{source} has no rows that can be read{reason}")
    forms = _given(handler_name, kind, map_keys or {}) or _overlaid(_forms(columns, kind), map_keys or {})
    if not forms:
        raise UnrecognisedRowsError(f"{source}: {_unknown(columns, kind)}")
    tried = [_try(form, columns, source) for form in forms]
    fitting = [result for result in tried if isinstance(result, Recognised)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UnrecognisedRowsError(f"{source}: {'; '.join(str(result) for result in tried)}")
    choices = "".join(f"\n    {result.form.description}:\n      {result.form.as_words()}" for result in fitting)
    raise UnrecognisedRowsError(f"{source}: the rows can be read in {len(fitting)} ways; choose one:{choices}")


def _forms(columns: RowColumns, kind: Kind) -> list[RowForm]:
    return pair_forms(columns) if kind == "pair" else prompt_forms(columns)


def _given(handler_name: str, kind: Kind, map_keys: Mapping[str, Any]) -> list[RowForm]:
    """Return the form that a named handler has."""
    if not handler_name:
        return []
    problem = handler_problem(handler_name)
    if problem is None and HANDLERS[handler_name].kind != kind:
        problem = f"handler_name {handler_name} reads {HANDLERS[handler_name].kind}s, but this stage needs {kind}s"
    problems = [problem] if problem else map_key_problems(HANDLERS[handler_name].columns, map_keys)
    if problems:
        raise ValueError("; ".join(problems))
    return [RowForm("as given", handler_name, map_keys)]


def _overlaid(forms: Sequence[RowForm], map_keys: Mapping[str, Any]) -> list[RowForm]:
    """Return the forms with the columns that the user names; those whose handler lacks a key are left out."""
    fitting = [form for form in forms if not map_key_problems(HANDLERS[form.handler_name].columns, map_keys)]
    overlaid = [replace(form, map_keys={**form.map_keys, **map_keys}) for form in fitting]
    return [form for number, form in enumerate(overlaid) if not any(_is_same(form, o) for o in overlaid[:number])]


def _is_same(first: RowForm, second: RowForm) -> bool:
    return (first.handler_name, dict(first.map_keys)) == (second.handler_name, dict(second.map_keys))


def _try(form: RowForm, columns: RowColumns, source: str) -> Recognised | str:
    """Read the rows as a form; return why it does not fit if it does not."""
    handler = HANDLERS[form.handler_name]
    available = [*dict.fromkeys(name for row in columns.rows for name in row)]
    try:
        mapping = resolve_columns(handler.columns, form.map_keys, available, source)
    except ValueError as error:
        return str(error).removeprefix(f"{source}: ")
    examples: list[Example] = []
    dropped: list[RowDropped] = []
    for row in columns.rows:
        try:
            examples.append(handler.read(row, mapping))
        except RowDropped as reason:
            dropped.append(reason)
    malformed = [reason for reason in dropped if reason.reason in MALFORMED]
    detail = f" ({dropped[0].detail})" if dropped and dropped[0].detail else ""
    first = f"{dropped[0].reason}{detail}" if dropped else ""
    if not examples or len(malformed) > _MAX_MALFORMED_SHARE * len(columns.rows):
        share = f"{len(dropped)} of {len(columns.rows)} rows cannot be read as {form.description}"
        return f"{share}, the first because of {first}; set handler_name and map_keys"
    return Recognised(form, examples[0], len(columns.rows), len(examples), first)


def _unknown(columns: RowColumns, kind: Kind) -> str:
    found = ", ".join(f"{name} ({columns.kind(name)})" for name in columns.names)
    advice = f"name the handler and the columns: handler_name={'|'.join(_names(kind))} map_keys='{{...}}'"
    if kind == "pair" and prompt_forms(columns) and not set(columns.names) & {"completion", "response"}:
        return (
            f"the rows hold prompts and no preferences, which stage=online trains on; stages dpo and rm need a chosen "
            f"and a rejected response. Columns: {found}. If some of them are responses, {advice}"
        )
    if "label" in columns.names and {"completion", "response"} & set(columns.names):
        return f"rows with one response and a label, as for KTO, are no pairs. Columns: {found}"
    media = [name for name in columns.names if name in MEDIA_COLUMNS]
    remark = f" ({', '.join(media)} is not supported)" if media else ""
    return f"the form of the rows is not known{remark}; {advice}. Columns: {found}"


def _names(kind: Kind) -> list[str]:
    return [name for name, handler in HANDLERS.items() if handler.kind == kind]
