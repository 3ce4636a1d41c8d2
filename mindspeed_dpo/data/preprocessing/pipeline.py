"""The story of preprocessing: raw rows in, a whole set of token files out, and an account of every row.

Rows are tokenised in as many processes as asked for and written in their order, so neither `workers` nor `n_subs`
changes a byte of the output.
"""

from __future__ import annotations

import functools
import itertools
import logging
import multiprocessing
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspeed_dpo
from mindspeed_dpo.data.indexed.column_group import (
    TokenSetWriter,
    open_columns,
    open_text_columns,
    partial_name,
    writing,
)
from mindspeed_dpo.data.preprocessing.row_counts import Tally
from mindspeed_dpo.data.preprocessing.row_encoder import EncodedRow, RowEncoder
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.preprocessing.sources import RawData, find_input
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import tokenizer_fingerprint

_CHUNK_ROWS = 64
"""Rows handed to a process at a time."""

logger = logging.getLogger(__name__)


class PreprocessError(ValueError):
    """The data as a whole cannot be used; nothing was written."""


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes:
        prefix: Where the set lies.
        columns: Its columns of tokens.
        tally: What became of the rows.
        left_out: Files that were not read.
        meta: The description written beside the set.
    """

    prefix: Path
    columns: tuple[str, ...]
    tally: Tally
    left_out: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """What prompts carry beside their tokens."""
        return tuple(self.meta.get("text_columns", ()))


@dataclass(frozen=True)
class _Job:
    """What another process needs to encode rows; hashable, so that it can keep what it builds from it."""

    settings_json: str
    available: tuple[str, ...]
    source: str


def preprocess(settings: PreprocessSettings) -> Outcome:
    """Turn raw data into a set of token files.

    Raises:
        ValueError: The data or the settings cannot be used; nothing was written and what was there is intact.
        FileNotFoundError: A file is missing.
    """
    raw = find_input(settings)
    job = _Job(settings.to_json(), tuple(raw.columns()), raw.name)
    encoder = _row_encoder(job)
    if encoder.note:
        logger.warning(encoder.note)
    with writing(settings.output_prefix, encoder.column_names, encoder.text_names) as writer:
        tally = _encode(job, raw, settings, writer)
        _check(tally, settings, raw)
        meta = writer.commit(_description(settings, encoder, tally))
    return Outcome(writer.prefix, writer.columns, tally, raw.left_out, meta)


def _encode(job: _Job, raw: RawData, settings: PreprocessSettings, writer: TokenSetWriter) -> Tally:
    try:
        if settings.n_subs > 1:
            return _encode_parts(job, raw, settings, writer)
        return _encode_rows(job, raw.rows(), settings, writer)
    except BrokenExecutor as error:
        raise PreprocessError("a worker process died, perhaps for want of memory; try fewer workers") from error


def _encode_rows(
    job: _Job, rows: Iterable[Row], settings: PreprocessSettings, writer: TokenSetWriter, first_row: int = 1
) -> Tally:
    """Encode rows in order into a writer; rows are counted from `first_row` in messages."""
    tally, started = Tally(), time.monotonic()
    for result in itertools.chain.from_iterable(_encoded_chunks(job, rows, settings.workers)):
        if isinstance(result, EncodedRow):
            writer.append(result.columns, result.texts)
            tally.keep({name: len(ids) for name, ids in result.columns.items()}, result.prompt_tail)
        else:
            tally.drop(first_row + tally.rows_in, *result)
        if tally.rows_in % settings.log_interval == 0:
            rate = tally.rows_in / max(time.monotonic() - started, 1e-9)
            logger.info("%d rows, %d kept, %.0f rows/s", tally.rows_in, tally.kept, rate)
    return tally


def _encoded_chunks(job: _Job, rows: Iterable[Row], workers: int) -> Iterator[list[EncodedRow | tuple[str, str]]]:
    chunks = _chunks(rows)
    encode = functools.partial(_encode_chunk, job)
    if workers == 1:
        yield from map(encode, chunks)
        return
    with _processes(workers) as pool:
        yield from _in_order(pool, encode, chunks, ahead=4 * workers)


def _in_order(
    pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Like `pool.map`, but takes from `items` only as much as is soon needed."""
    pending: deque[Future[Any]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _processes(count: int) -> ProcessPoolExecutor:
    """Processes forked from one that has imported this module and done nothing else.

    A fork of this very process would copy the locks of its tokenizer's threads; fresh ones would import torch each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(count, mp_context=context)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while chunk := list(itertools.islice(source, _CHUNK_ROWS)):
        yield chunk


@functools.lru_cache(maxsize=1)
def _row_encoder(job: _Job) -> RowEncoder:
    return RowEncoder(PreprocessSettings.from_json(job.settings_json), job.available, job.source)


def _encode_chunk(job: _Job, rows: list[Row]) -> list[EncodedRow | tuple[str, str]]:
    """Each row as stored, or the reason and detail of its being dropped. Runs in any process."""
    encoder = _row_encoder(job)
    results: list[EncodedRow | tuple[str, str]] = []
    for row in rows:
        try:
            results.append(encoder.encode(row))
        except RowDropped as dropped:
            results.append((dropped.reason, dropped.detail))
    return results


def _encode_parts(job: _Job, raw: RawData, settings: PreprocessSettings, writer: TokenSetWriter) -> Tally:
    """Encode `n_subs` parts side by side, then join their files in numeric order."""
    total = sum(1 for _ in raw.rows())
    bounds = [total * part // settings.n_subs for part in range(settings.n_subs + 1)]
    tally = Tally()
    with (
        tempfile.TemporaryDirectory(prefix=partial_name(writer.prefix), dir=writer.prefix.parent) as folder,
        _processes(settings.n_subs) as pool,
    ):
        prefixes = [str(Path(folder, f"part_{part}")) for part in range(settings.n_subs)]
        parts = [
            pool.submit(_encode_part, job, raw, bounds[part], bounds[part + 1], prefix)
            for part, prefix in enumerate(prefixes)
        ]
        for number, (part, prefix) in enumerate(zip(parts, prefixes, strict=True), start=1):
            tally.add(part.result())
            logger.info("part %d of %d done: %d rows, %d kept", number, len(parts), tally.rows_in, tally.kept)
            readers = open_columns(prefix, writer.columns)
            writer.append_all(readers, open_text_columns(prefix, len(readers[writer.columns[0]]), writer.columns))
    return tally


def _encode_part(job: _Job, raw: RawData, start: int, stop: int, prefix: str) -> Tally:
    encoder = _row_encoder(job)
    with writing(prefix, encoder.column_names, encoder.text_names) as writer:
        rows = itertools.islice(raw.rows(), start, stop)
        tally = _encode_rows(job, rows, raw.settings, writer, first_row=start + 1)
        writer.commit({})
    return tally


def _check(tally: Tally, settings: PreprocessSettings, raw: RawData) -> None:
    cases = "".join(f"\n- {count} {reason}: {remark}" for reason, count, remark in tally.cases())
    if tally.malformed > settings.max_invalid_share * tally.rows_in:
        raise PreprocessError(
            f"{raw.name}: {tally.malformed} of {tally.rows_in} rows are malformed, more than max_invalid_share "
            f"{settings.max_invalid_share:g}; check handler_name and map_keys. Nothing was written.{cases}"
        )
    if not tally.kept:
        raise PreprocessError(f"{raw.name}: none of {tally.rows_in} rows is kept. Nothing was written.{cases}")


def _description(settings: PreprocessSettings, encoder: RowEncoder, tally: Tally) -> dict[str, Any]:
    return {
        "format": 1,
        "version": mindspeed_dpo.__version__,
        "handler_name": settings.handler_name,
        "map_keys": dict(settings.map_keys),
        "prompt_type": settings.prompt_type,
        "enable_thinking": settings.enable_thinking,
        "template_fingerprint": encoder.encoder.fingerprint,
        "tokenizer_fingerprint": tokenizer_fingerprint(settings.tokenizer_name_or_path or ""),
        "eos_token_id": encoder.encoder.tokenizer.eos_token_id,
        "pad_token_id": encoder.encoder.tokenizer.pad_token_id,
        "seq_length": settings.seq_length,
        **tally.as_dict(),
    }
