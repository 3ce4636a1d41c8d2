"""What preprocessing reads: raw data in every format, folders, rows of every handler, and YAML of settings."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from mindspeed_dpo.data.preprocessing.cli import parse
from mindspeed_dpo.data.preprocessing.column_map import resolve_columns
from mindspeed_dpo.data.preprocessing.data_folder import select_files
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.readers import read_file
from mindspeed_dpo.data.preprocessing.row_encoder import RowEncoder
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.examples import RowDropped
from tests.fuzz.model_targets import TOKENIZER
from tests.fuzz.structures import within_gzip, word
from tests.fuzz.target import JSON, YAML, Target, drain

FORMATS: dict[str, tuple[Any, ...]] = {
    "rows.json": JSON, "rows.jsonl": JSON, "rows.json.gz": (within_gzip(JSON),), "rows.jsonl.gz": (within_gzip(JSON),),
    "rows.csv": (), "rows.txt": (), "rows.parquet": (word,), "plain.arrow": (word,), "stream.arrow": (word,),
}  # fmt: skip
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "r"}]
ROW = {
    "instruction": "i", "input": "", "prompt": "p", "system": "s", "history": [["q", "a"]], "output": "o",
    "conversations": SHAREGPT, "chosen": {"from": "gpt", "value": "yes"}, "rejected": "no", "score": {"a": [1.5, None]},
    "response_0": "a", "response_1": "b", "better_response_id": 1, "response_2": "c", "preference_strength": -1,
    "completions": [{"response": "a", "score": 1.5}, {"response": "b", "score": "2"}], "label": None,
}  # fmt: skip
DIALOGUES = {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "b"}]}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1]}'}}
TOOL_DIALOGUE = [
    MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "1", "name": "f", "tool_call_id": "1"},
]  # fmt: skip
TOOL_ROW = {
    "chosen": [*TOOL_DIALOGUE, MESSAGES[1]], "rejected": [*TOOL_DIALOGUE, {"role": "assistant", "content": "b"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": '{"type": "object"}'}}],
}  # fmt: skip
SETTINGS = """\
input: ./rows.jsonl
output-prefix: ./out/pairs
handler_name: AlpacaStylePairwiseHandler
map-keys: '{"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}'
tokenizer_name_or_path: ./tokenizer
prompt_type: qwen
seq_length: 1024
workers: 2
dataset_additional_keys: [score, kind]
enable_thinking: none
pack: false
seed: 42
"""


def write_data_files(root: Path) -> None:
    """Write what `seeds.write_inputs` does not: csv, txt, folders, rows for handlers and settings."""
    inputs = root / "inputs"
    (inputs / "rows.json.gz").write_bytes(gzip.compress((inputs / "rows.json").read_bytes()))
    (inputs / "rows.csv").write_text('prompt,chosen,rejected\n"a, b",c,"d\n""e"""\nf,ä,h\n')
    (inputs / "rows.txt").write_text("one\n\nzwölf\n")
    for name, row in (("rows", ROW), ("dialogues", DIALOGUES), ("tools", TOOL_ROW)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps({**row, "id": n}) + "\n" for n in range(3)))
    (root / "settings.yaml").write_text(SETTINGS)
    (root / "saved/train").mkdir(parents=True)
    (root / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (root / "saved/train/data-00000-of-00001.arrow").write_bytes((inputs / "stream.arrow").read_bytes())
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "a", "_split": "train"}
    (root / "saved/train/state.json").write_text(json.dumps(state))


def _folder(root: Path) -> None:
    files, _ = select_files(root / "saved")
    for file in files:
        drain(read_file(file))


@cache
def _encoder(handler: str) -> RowEncoder:
    is_dialogue = handler == "DialoguePairwiseHandler"
    columns = [*(DIALOGUES if is_dialogue else ROW), "id"]
    keys = ("id",) if HANDLERS[handler].allows_additional_keys else ()
    settings = PreprocessSettings(
        handler_name=handler, prompt_type="chat_template", tokenizer_name_or_path=str(TOKENIZER),
        dataset_additional_keys=keys,
    )  # fmt: skip
    return RowEncoder(settings, columns, "the rows")


def _rows(root: Path, handler: str) -> None:
    """Read the rows of a file and encode them; a row that cannot be used is dropped by itself."""
    encoder = _encoder(handler)
    for row in read_file(root / _file_of(handler)):
        if isinstance(row, RowDropped):
            continue
        try:
            encoder.encode(row)
        except RowDropped:
            continue


def _tool_rows(root: Path) -> None:
    """Read the rows with tools of a file as pairs."""
    handler = HANDLERS["DialoguePairwiseHandler"]
    columns = resolve_columns(handler.columns, {}, [*TOOL_ROW], "the rows")
    for row in read_file(root / "tools.jsonl"):
        if isinstance(row, RowDropped):
            continue
        try:
            handler.read(row, columns)
        except RowDropped:
            continue


def _file_of(handler: str) -> str:
    return "dialogues.jsonl" if handler == "DialoguePairwiseHandler" else "rows.jsonl"


DATA_TARGETS = (
    *(
        Target(
            f"input-{name}",
            f"inputs/{name}",
            lambda root, name=name: drain(read_file(root / "inputs" / name)),  # type: ignore[misc]
            mutations,
        )
        for name, mutations in FORMATS.items()
    ),
    Target("saved-splits", "saved/dataset_dict.json", _folder, JSON),
    Target("saved-dataset", "saved/train/state.json", _folder, JSON),
    *(
        Target(f"rows-{name}", _file_of(name), lambda root, name=name: _rows(root, name), JSON)  # type: ignore[misc]
        for name in HANDLERS
    ),
    Target("rows-tools", "tools.jsonl", _tool_rows, JSON),
    Target("settings", "settings.yaml", lambda root: parse([str(root / "settings.yaml")], root), YAML),
)
