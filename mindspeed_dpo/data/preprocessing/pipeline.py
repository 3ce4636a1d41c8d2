"""The preprocessing pipeline: reads raw rows, tokenizes them, writes the token files and counts every row.

Rows are tokenized in parallel and written in their original order, so the output does not depend on `workers` or
`n_subs`.
"""

from __future__ import annotations

import functools
import itertools
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspeed_dpo
from mindspeed_dpo.data.indexed.column_group import LABELS, open_columns, open_text_columns, text_columns_path
from mindspeed_dpo.data.indexed.column_group_writer import ColumnGroupWriter, writing
from mindspeed_dpo.data.preprocessing.column_map import needed_columns
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.input_sources import RawData, find_input
from mindspeed_dpo.data.preprocessing.num_rows import estimated_rows
from mindspeed_dpo.data.preprocessing.process_pool import available_cores, map_in_order, process_pool
from mindspeed_dpo.data.preprocessing.readers import RawRow
from mindspeed_dpo.data.preprocessing.row_counts import RowCounts
from mindspeed_dpo.data.preprocessing.row_encoder import EncodedRow, RowEncoder
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import tokenizer_fingerprint
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.phase import Phase

_CHUNK_ROWS = 64
"""Number of rows sent to a worker process at a time."""
_CHUNKS_PER_PROCESS = 16
"""Chunks per additional process: starting one takes seconds, and a process tokenizes about 1000 rows per second."""

_Results = list[EncodedRow | tuple[str, str]]
"""The results of one raw row, at least one: an `EncodedRow`, or (reason, detail) for what is dropped."""

logger = logging.getLogger(__name__)


class PreprocessError(ValueError):
    """Raised if the data cannot be used; nothing was written."""


@dataclass(frozen=True)
class PreprocessResult:
    """The result of a run, for example `PreprocessResult(Path("out/train"), ("chosen_input_ids",), RowCounts())`.

    Attributes:
        prefix: Path prefix of the token files.
        columns: Token columns.
        row_counts: Counts of the rows by outcome.
        skipped_files: Files that were not read.
        unread_columns: Columns of the data that were not read.
        meta: Content of the metadata file.
    """

    prefix: Path
    columns: tuple[str, ...]
    row_counts: RowCounts
    skipped_files: tuple[str, ...] = ()
    unread_columns: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the text columns."""
        return tuple(self.meta.get("text_columns", ()))

    @property
    def text_columns_path(self) -> Path:
        """Path of the file with the text columns."""
        return text_columns_path(self.prefix, self.columns)


@dataclass(frozen=True)
class _Job:
    """Arguments of a worker process's `RowEncoder`; hashable, so that the encoder can be cached.

    Attributes:
        settings_json: Output of `PreprocessSettings.to_json`.
        available: Columns of the data.
        source: Name of the data, for messages.
    """

    settings_json: str
    available: tuple[str, ...]
    source: str


def preprocess(settings: PreprocessSettings) -> PreprocessResult:
    """Convert raw data to token files.

    Raises:
        ValueError: The data or the settings cannot be used; nothing was written and existing files are unchanged.
        FileNotFoundError: A file does not exist.
    """
    with live_status.phase("reading tokenizer and columns"):
        raw, job, encoder = _prepare(settings)
    if encoder.note:
        logger.warning(encoder.note)
    with writing(settings.output_prefix, encoder.column_names, encoder.text_column_names) as writer:
        counts = _encode(job, raw, settings, writer)
        _check_counts(counts, settings, raw)
        meta = writer.commit(_metadata(settings, encoder, counts))
    return PreprocessResult(writer.prefix, writer.columns, counts, raw.skipped_files, encoder.unread_columns, meta)


def _prepare(settings: PreprocessSettings) -> tuple[RawData, _Job, RowEncoder]:
    """Find the raw data, and open what encodes its rows."""
    raw = find_input(settings)
    needed = needed_columns(HANDLERS[settings.handler_name].columns, settings.map_keys)
    needed.update(key for key in (*settings.dataset_additional_keys, *settings.row_filter) if key != LABELS)
    job = _Job(settings.to_json(), tuple(raw.columns(needed)), raw.name)
    return raw, job, _row_encoder(job)


def _encode(job: _Job, raw: RawData, settings: PreprocessSettings, writer: ColumnGroupWriter) -> RowCounts:
    try:
        if settings.n_subs > 1:
            return _encode_parts(job, raw, settings, writer)
        with live_status.phase("preprocessing rows", estimated_rows(raw)) as phase:
            return _encode_rows(job, raw.rows(_row_encoder(job).read_columns), settings, writer, phase=phase)
    except BrokenExecutor as error:
        raise PreprocessError("a worker process died, possibly out of memory; try fewer workers") from error


def _encode_rows(
    job: _Job,
    rows: Iterable[RawRow],
    settings: PreprocessSettings,
    writer: ColumnGroupWriter,
    first_row: int = 1,
    phase: Phase | None = None,
) -> RowCounts:
    """Encode rows in order into a writer; `first_row` is the number of the first row in messages."""
    counts, start_s, num_before = RowCounts(), 0.0, 0
    for results in itertools.chain.from_iterable(_encoded_chunks(job, rows, settings)):
        if not counts.num_read:
            # Not before: the start of the processes is not part of the rate.
            start_s, num_before = time.monotonic(), 1
        for result in results:
            if isinstance(result, EncodedRow):
                writer.append(result.columns, result.texts)
                lengths = {name: len(ids) for name, ids in result.columns.items()}
                counts.count_written(lengths, result.prompt_tail, result.is_turn_changed)
            else:
                counts.count_dropped(first_row + counts.num_read, *result)
        counts.count_read(len(results))
        if phase is not None:
            phase.set_done(counts.num_read)
        # A terminal has the count below its lines.
        if counts.num_read % settings.log_interval == 0 and live_status.width is None:
            rate = (counts.num_read - num_before) / max(time.monotonic() - start_s, 1e-9)
            logger.info("%d rows read, %d written, %.0f rows/s", counts.num_read, counts.num_written, rate)
    return counts


def _encoded_chunks(job: _Job, rows: Iterable[RawRow], settings: PreprocessSettings) -> Iterator[list[_Results]]:
    chunks = _chunks(rows)
    encode = functools.partial(_encode_chunk, job)
    limit = min(settings.workers, max(1, available_cores() // settings.n_subs))
    first = list(itertools.islice(chunks, (limit - 1) * _CHUNKS_PER_PROCESS + 1)) if limit > 1 else []
    workers = max(1, -(-len(first) // _CHUNKS_PER_PROCESS))
    chunks = itertools.chain(first, chunks)
    if settings.n_subs == 1 and workers < settings.workers:
        # What the machine has is asked for by default, and then not worth a line.
        level = logging.INFO if settings.workers > available_cores() else logging.DEBUG
        reason = f"this machine has {limit} cores" if workers == limit else "there are too few rows for more"
        logger.log(level, "starting %d of %d workers: %s", workers, settings.workers, reason)
    if workers == 1:
        yield from map(encode, chunks)
        return
    with process_pool(workers, __name__) as pool:
        yield from map_in_order(pool, encode, chunks, max_pending=4 * workers)


def _chunks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    source = iter(rows)
    while chunk := list(itertools.islice(source, _CHUNK_ROWS)):
        yield chunk


@functools.lru_cache(maxsize=1)
def _row_encoder(job: _Job) -> RowEncoder:
    return RowEncoder(PreprocessSettings.from_json(job.settings_json), job.available, job.source)


def _encode_chunk(job: _Job, rows: list[RawRow]) -> list[_Results]:
    """Encode a chunk; return the results of each row. Runs in any process."""
    return [_encode_row(_row_encoder(job), row) for row in rows]


def _encode_row(encoder: RowEncoder, row: RawRow) -> _Results:
    try:
        if isinstance(row, RowDropped):
            raise row
        results = encoder.encode(row)
    except RowDropped as dropped:
        results = [dropped]
    return [(result.reason, result.detail) if isinstance(result, RowDropped) else result for result in results]


def _encode_parts(job: _Job, raw: RawData, settings: PreprocessSettings, writer: ColumnGroupWriter) -> RowCounts:
    """Encode `n_subs` parts in parallel, then merge their files in order."""
    total = sum(1 for _ in raw.rows(_row_encoder(job).read_columns))
    bounds = [total * part // settings.n_subs for part in range(settings.n_subs + 1)]
    counts = RowCounts()
    with (
        live_status.phase("preprocessing parts", settings.n_subs) as phase,
        tempfile.TemporaryDirectory(dir=writer.folder) as folder,
        process_pool(min(settings.n_subs, available_cores()), __name__) as pool,
    ):
        prefixes = [str(Path(folder, f"part_{part}")) for part in range(settings.n_subs)]
        parts = [
            pool.submit(_encode_part, job, raw, bounds[part], bounds[part + 1], prefix)
            for part, prefix in enumerate(prefixes)
        ]
        for number, (part, prefix) in enumerate(zip(parts, prefixes, strict=True), start=1):
            counts.add(part.result())
            phase.advance()
            logger.info(
                "part %d of %d done: %d rows read, %d written", number, len(parts), counts.num_read, counts.num_written
            )
            readers = open_columns(prefix, writer.columns)
            writer.append_all(readers, open_text_columns(prefix, len(readers[writer.columns[0]]), writer.columns))
    return counts


def _encode_part(job: _Job, raw: RawData, start: int, stop: int, prefix: str) -> RowCounts:
    encoder = _row_encoder(job)
    with writing(prefix, encoder.column_names, encoder.text_column_names) as writer:
        rows = itertools.islice(raw.rows(encoder.read_columns), start, stop)
        counts = _encode_rows(job, rows, raw.settings, writer, first_row=start + 1)
        writer.commit({})
    return counts


def _check_counts(counts: RowCounts, settings: PreprocessSettings, raw: RawData) -> None:
    reasons = "".join(f"\n- {count} {reason}: {remark}" for reason, count, remark in counts.drop_summary())
    if counts.num_malformed > settings.max_invalid_share * counts.num_examples:
        raise PreprocessError(
            f"{raw.name}: {counts.num_malformed} of {counts.num_examples} rows are malformed, more than "
            f"max_invalid_share {settings.max_invalid_share:g}; check handler_name and map_keys. "
            f"Nothing was written.{reasons}"
        )
    if not counts.num_written:
        raise PreprocessError(f"{raw.name}: none of {counts.num_read} rows can be used. Nothing was written.{reasons}")


def _metadata(settings: PreprocessSettings, encoder: RowEncoder, counts: RowCounts) -> dict[str, Any]:
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
        **settings.changed_keys(),
        **counts.as_dict(),
    }
