"""Rows of several responses kept as rankings: what is kept and counted, files, batches, and what pairs make of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.data_fingerprint import data_fingerprint
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, RANKING_COLUMNS, columns_present, open_text_columns
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.ranking_file import RankingFile, open_ranked
from mindspeed_dpo.data.preprocessing.rankings import rank_responses
from mindspeed_dpo.data.tokenization.examples import Prompt, RankedExample, RowDropped, Turn
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.workers.setup.open_datasets import open_pairs
from preprocess_data import main
from tests.support.tokenizers import save_chat_tokenizer
from tests.unit.workers.pairs import RANKINGS, random_run, write_pairs, write_rankings

QUESTION = Prompt((Turn("user", "Q"),))


def example(*rated: tuple[str, float | None]) -> RankedExample:
    responses = tuple((Turn("assistant", text),) for text, _ in rated)
    return RankedExample(QUESTION, responses, tuple(score for _, score in rated))


@pytest.mark.parametrize(
    ("rated", "margin", "kept", "reasons"),
    [
        ([("a", 1), ("b", 3), ("c", 2)], 0.0, "bca", []),
        ([("a", 1), ("b", None), ("c", 2)], 0.0, "ca", []),
        ([("a", 2), ("b", 2), ("c", 1)], 0.0, "ac", ["tie"]),
        ([("a", 3), ("b", 2.5), ("c", 2), ("d", 1)], 1.0, "acd", ["small_margin"]),
        ([("a", 3), ("b", 2.5), ("c", 2.25)], 1.0, "", ["small_margin", "small_margin"]),
        ([("a", 3), ("a", 2), ("c", 1)], 0.0, "ac", ["identical_responses"]),
        ([(" ", 3), ("b", 2), ("c", 1)], 0.0, "bc", ["empty_response"]),
        ([("a", 2), ("b", 2), ("c", 2)], 0.0, "", ["tie", "tie"]),
    ],
)
def test_a_ranking_is_strict_and_what_is_left_out_has_its_reason(
    rated: list[tuple[str, float | None]], margin: float, kept: str, reasons: list[str]
) -> None:
    ranked, left_out = rank_responses(example(*rated), margin)
    assert "".join(response[0].content for response in ranked.responses) == kept
    assert [dropped.reason for dropped in left_out] == reasons
    assert list(ranked.scores) == sorted(ranked.scores, reverse=True)  # type: ignore[type-var]


def test_fewer_than_two_scores_are_no_ranking() -> None:
    with pytest.raises(RowDropped, match="1 of 2 responses have a score"):
        rank_responses(example(("a", 1), ("b", None)), 0.0)


def test_messages_that_all_responses_begin_with_are_part_of_the_prompt() -> None:
    start = (Turn("assistant", "A"), Turn("user", "Q2"))
    same = tuple((*start, Turn("assistant", text)) for text in "abc")
    ranked, _ = rank_responses(RankedExample(QUESTION, same, (3.0, 2.0, 1.0)), 0.0)
    assert ranked.prompt.turns == (*QUESTION.turns, *start)
    assert [len(response) for response in ranked.responses] == [1, 1, 1]
    other = (*same[:2], (Turn("assistant", "B"),))
    ranked, _ = rank_responses(RankedExample(QUESTION, other, (3.0, 2.0, 1.0)), 0.0)
    assert ranked.prompt == QUESTION and [len(response) for response in ranked.responses] == [3, 3, 1]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def preprocess(folder: Path, rows: list[dict[str, Any]], tokenizer: Path, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "input": folder / "raw.jsonl", "output_prefix": folder / "out", "prompt_type": "chat_template",
        "handler_name": "RankedResponsesPairwiseHandler", "tokenizer_name_or_path": tokenizer,
        "map_keys": '{"ranks": "place"}', "pair_selection": "list", **options,
    }  # fmt: skip
    assert main([f"{key}={value}" for key, value in settings.items()]) == 0
    return folder / "out"


def row(number: int, texts: str, places: list[int]) -> dict[str, Any]:
    return {"prompt": f"Question {number}", "completions": [2 * text for text in texts], "place": places}


ROWS = [row(1, "abcd", [1, 2, 3, 4]), row(2, "efg", [3, 1, 2]), row(3, "hi", [2, 1])]


def ranked_texts(prefix: Path, tokenizer: Path) -> list[list[str]]:
    """The texts of the responses of each row, in their order in the files."""
    decode = load_tokenizer(str(tokenizer)).decode
    dataset = PreferenceDataset.open(str(prefix), ranked=True)
    batches = [dataset.batch([number]) for number in range(len(dataset))]
    return [[decode(ids.tolist())[:2] for ids in batch.responses()[0]] for batch in batches]


def test_the_file_has_responses_by_rank_whatever_their_order_in_the_data(tmp_path: Path, tokenizer: Path) -> None:
    prefix = preprocess(tmp_path / "one", ROWS, tokenizer)
    assert ranked_texts(prefix, tokenizer) == [["aa", "bb", "cc", "dd"], ["ff", "gg", "ee"], ["ii", "hh"]]
    meta = read_meta(prefix) or {}
    assert meta["columns"] == list(RANKING_COLUMNS) and meta["pair_selection"] == "list"
    orders = [list(order) for order in itertools.permutations(range(4))][5::7]
    for number, order in enumerate(orders):
        first = row(1, "".join("abcd"[k] for k in order), [k + 1 for k in order])
        permuted = preprocess(tmp_path / f"order{number}", [first, *ROWS[1:]], tokenizer)
        assert (read_meta(permuted) or {})["content_hash"] == meta["content_hash"]
    texts = open_text_columns(prefix, 3, PAIR_COLUMNS)
    assert texts is not None and texts.value(0, "score_chosen") == -1 and texts.value(0, "margin") == 3


def test_every_response_that_is_left_out_is_counted(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(1, "abcd", [1, 2, 2, 3]), row(2, "ef", [1, 1]), row(3, "ghi", [1, 2, 3])]
    rows[2]["completions"][1] = "long " * 30
    prefix = preprocess(tmp_path, rows, tokenizer, seq_length=60)
    meta = read_meta(prefix) or {}
    assert ranked_texts(prefix, tokenizer) == [["aa", "bb", "dd"], ["gg", "ii"]]
    assert meta["rows_dropped"] == {"tie": 2, "too_long": 1} and meta["rows_kept"] == 2
    assert meta["rows_in"] + meta["further_pairs"] == meta["rows_kept"] + sum(meta["rows_dropped"].values())
    assert "of rankings, responses left out" in capsys.readouterr().out


def test_best_and_worst_are_the_pair_that_others_read(tmp_path: Path, tokenizer: Path) -> None:
    rankings = preprocess(tmp_path / "list", ROWS, tokenizer)
    pairs = preprocess(tmp_path / "pairs", ROWS, tokenizer, pair_selection="best_worst")
    ours, theirs = (PreferenceDataset.open(str(prefix), margin_column="margin") for prefix in (rankings, pairs))
    assert ours.lengths().tolist() == theirs.lengths().tolist() and ours.lengths().shape == (3, 3)
    for name in ("prompt_tokens", "response_tokens", "margins"):
        assert getattr(ours.batch([0, 1, 2]), name).equal(getattr(theirs.batch([0, 1, 2]), name))
    # The list of columns of the other kind is gone once the set is replaced.
    preprocess(tmp_path / "list", ROWS, tokenizer, pair_selection="best_worst")
    assert set(columns_present(rankings)) == set(PAIR_COLUMNS)


def test_parts_and_merged_sets_keep_their_rankings(tmp_path: Path, tokenizer: Path) -> None:
    complete = preprocess(tmp_path / "all", ROWS, tokenizer)
    parts = preprocess(tmp_path / "parts", ROWS, tokenizer, n_subs=2)
    assert (read_meta(parts) or {})["content_hash"] == (read_meta(complete) or {})["content_hash"]
    (tmp_path / "sets").mkdir()
    for number in range(3):
        preprocess(tmp_path / "sets", [ROWS[number]], tokenizer, output_prefix=tmp_path / "sets" / f"part{number}")
    merge = [f"input={tmp_path / 'sets'}", f"output_prefix={tmp_path / 'merged'}"]
    assert main([*merge, "--merge-group-keys", *RANKING_COLUMNS]) == 0
    assert ranked_texts(tmp_path / "merged", tokenizer) == ranked_texts(complete, tokenizer)


def test_batches_are_as_wide_as_their_longest_ranking(tmp_path: Path) -> None:
    dataset = PreferenceDataset.open(str(write_rankings(tmp_path / "lists")), ranked=True)
    assert dataset.lengths().shape == (len(RANKINGS), 5)
    for number, (prompt, *responses) in enumerate(RANKINGS):
        batch = dataset.batch([number])
        assert batch.prompt_tokens.tolist() == prompt
        assert [ids.tolist() for ids in batch.responses()[0]] == responses
    both = dataset.batch([1, 0])
    assert both.response_lengths.tolist() == [[2, 2, 0, 0], [1, 3, 2, 1]]


@pytest.mark.parametrize(("truncation", "seq_length"), [("cut_prompt", 5), ("keep_start", 4), ("drop", 5)])
def test_truncation_is_that_of_the_longest_response(tmp_path: Path, truncation: str, seq_length: int) -> None:
    prefix = str(write_rankings(tmp_path / "lists"))
    dataset = PreferenceDataset.open(prefix, ranked=True, seq_length=seq_length, truncation=truncation)
    full = PreferenceDataset.open(prefix, ranked=True).lengths()
    longest = full[:, 1:].max(1)
    if truncation == "cut_prompt":
        kept, expected = longest < seq_length, full.copy()
        expected[:, 0] = np.minimum(full[:, 0], seq_length - longest)
    elif truncation == "keep_start":
        kept = full[:, 0] < seq_length
        expected = np.concatenate([full[:, :1], np.minimum(full[:, 1:], seq_length - full[:, :1])], 1)
    else:
        kept, expected = full[:, 0] + longest <= seq_length, full
    assert dataset.lengths().tolist() == expected[kept].tolist()
    batch = dataset.batch(range(len(dataset)))
    assert len(batch.response_tokens) == batch.response_lengths.sum()


def test_sets_of_pairs_and_of_rankings_are_read_together(tmp_path: Path) -> None:
    pairs, lists = write_pairs(tmp_path / "pairs"), write_rankings(tmp_path / "lists")
    dataset = PreferenceDataset.open(f"{pairs},{lists}", ranked=True)
    assert dataset.batch([0, 5]).response_lengths.tolist() == [[1, 3, 0, 0], [1, 3, 2, 1]]
    evaluated = PreferenceDataset.open(str(pairs), ranked=True)
    assert TrainEvalPairs(dataset, {"held": evaluated}).lengths().shape == (len(dataset) + len(evaluated), 5)
    assert not isinstance(open_ranked(pairs), RankingFile)


def test_the_fingerprint_of_a_reward_models_data_covers_all_responses(tmp_path: Path) -> None:
    longer = [*RANKINGS[:-1], [*RANKINGS[-1][:2], [77], *RANKINGS[-1][2:]]]
    one, two = (write_rankings(tmp_path / name, rows) for name, rows in (("one", RANKINGS), ("two", longer)))
    of_pairs, of_lists = (
        [data_fingerprint(DataConfig(data_path=str(prefix)), ranked=ranked) for prefix in (one, two)]
        for ranked in (False, True)
    )
    assert of_pairs[0] == of_pairs[1] and of_lists[0] != of_lists[1]
    pairs = DataConfig(data_path=str(write_pairs(tmp_path / "pairs")))
    assert data_fingerprint(pairs, ranked=True) == data_fingerprint(pairs)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("between_lengths", [2], "row 0: the lengths of the responses between best and worst do not fit their ids"),
        ("between_lengths", [3, 0], "row 0: the lengths of the responses between"),
        ("between_labels", [4, 9, 5], "row 0: a token id between best and worst is negative, or not that of its label"),
        ("between_input_ids", [4, -9, 6], "row 0: a token id between best and worst is negative"),
    ],
)
def test_rankings_that_contradict_themselves_are_refused(
    tmp_path: Path, column: str, value: list[int], message: str
) -> None:
    ids = {"between_input_ids": [4, 9, 6], "between_labels": [4, 9, 6], "between_lengths": [3]}
    pair = dict(zip(PAIR_COLUMNS, ([5, 3], [-100, 3], [5, 1], [-100, 1]), strict=True))
    with writing(tmp_path / "set", RANKING_COLUMNS) as writer:
        writer.append({**pair, **ids, column: value})
        writer.commit({})
    with pytest.raises(TokenFileError, match=message):
        PreferenceDataset.open(str(tmp_path / "set"), ranked=True).batch([0])


@pytest.mark.parametrize("settings", [{"margin_column": "margin"}, {"rm_label_smoothing": 0.1}], ids=str)
def test_settings_of_pairs_are_refused_for_longer_rankings(tmp_path: Path, settings: dict[str, Any]) -> None:
    write_rankings(tmp_path / "pairs", margins=[1.0] * len(RANKINGS))
    run = random_run(tmp_path, stage="rm", **settings)
    (named,) = settings.items()
    with pytest.raises(ValueError, match=rf"up to 4 responses, but {named[0]}={named[1]} compares two; remove it"):
        open_pairs(run)
    # Trained on as pairs, or with two responses each, they have a margin.
    assert len(open_pairs(random_run(tmp_path, stage="dpo", margin_column="margin"))) == len(RANKINGS)
    write_rankings(tmp_path / "two", [[p, best, worst] for p, best, *_, worst in RANKINGS], [1.0] * len(RANKINGS))
    assert len(open_pairs(random_run(tmp_path, stage="rm", data_path=tmp_path / "two", **settings))) == len(RANKINGS)
