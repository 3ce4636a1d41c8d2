"""Rows with several rated responses: which pairs are made, what they carry, and what is counted instead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.algorithms.pairing import RULES as ONLINE_RULES
from mindspeed_dpo.config.shipped_files import PROJECT as ROOT
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, open_text_columns
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.preprocessing.cli import SettingsError, parse
from mindspeed_dpo.data.preprocessing.column_map import map_key_problems, resolve_columns
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.pair_candidates import RULES, candidate_pairs, ranked_pair
from mindspeed_dpo.data.tokenization.examples import Prompt, RankedExample, RowDropped, Turn
from preprocess_data import main
from tests.support.tokenizers import save_chat_tokenizer

RANKED, SIGNED = "RankedResponsesPairwiseHandler", "SignedPreferencePairwiseHandler"


def read(handler_name: str, row: dict[str, Any], map_keys: dict[str, Any] | None = None) -> Any:
    handler = HANDLERS[handler_name]
    assert not map_key_problems(handler.columns, map_keys or {})
    return handler.read(row, resolve_columns(handler.columns, map_keys or {}, list(row), "data"))


def example(*scores: float | None, prompt: str = "Q") -> RankedExample:
    responses = tuple((Turn("assistant", f"r{n}"),) for n in range(len(scores)))
    return RankedExample(Prompt((Turn("user", prompt),)), responses, scores)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("best_worst", [(1, 2)]),
        ("all", [(1, 0), (1, 3), (1, 2), (0, 3), (0, 2), (3, 2)]),
    ],
)
def test_rules_order_responses_by_their_scores(rule: str, expected: list[tuple[int, int]]) -> None:
    assert candidate_pairs(example(3, 9, 1, 3), rule, seed=0) == expected


def test_responses_without_a_score_are_in_no_pair() -> None:
    assert candidate_pairs(example(None, 1, 2, None), "all", seed=0) == [(2, 1)]
    with pytest.raises(RowDropped, match="1 of 3 responses have a score") as dropped:
        candidate_pairs(example(None, 1, None), "best_worst", seed=0)
    assert dropped.value.reason == "no_preference"


def test_random_pairs_depend_on_seed_and_content_only_and_reach_all() -> None:
    rows = [example(4, 3, 2, 1, prompt=f"Q{n}") for n in range(200)]
    drawn = [candidate_pairs(row, "random", seed=1) for row in rows]
    assert drawn == [candidate_pairs(row, "random", seed=1) for row in rows]
    assert drawn != [candidate_pairs(row, "random", seed=2) for row in rows]
    counts = {pair: drawn.count([pair]) for pair in candidate_pairs(rows[0], "all", seed=1)}
    # 200 draws of 6 pairs: 33 each; below 15 with a probability of about 1e-4.
    assert sum(counts.values()) == 200 and min(counts.values()) >= 15


def test_a_pair_carries_its_scores() -> None:
    pair = ranked_pair(example(3, 9.5), 1, 0)
    assert (pair.chosen[0].content, pair.scores, pair.margin) == ("r1", (9.5, 3.0), 6.5)


ITEMS = [{"response": "a", "score": 1}, {"response": "b", "score": "2.5"}, {"response": "c", "score": None}]


@pytest.mark.parametrize(
    ("row", "map_keys", "scores"),
    [
        ({"completions": ITEMS}, {}, (1.0, 2.5, None)),
        ({"completions": [{**i, "rank": n} for n, i in enumerate(ITEMS)]}, {"tags": {"score_tag": "s"}}, (0, -1, -2)),
        ({"completions": ["a", "b", "c"], "s": [1, 2.5, float("nan")]}, {"scores": "s"}, (1, 2.5, None)),
        ({"completions": ["a", "b", "c"], "place": [3, 1, 2]}, {"ranks": "place"}, (-3, -1, -2)),
        ({"x": "a", "y": "b", "z": "c", "p": 1, "q": "", "r": 3},
         {"responses": ["x", "y", "z"], "scores": ["p", "q", "r"]}, (1, None, 3)),
        ({"completions": [[{"role": "assistant", "content": t}] for t in "abc"], "s": [1, 2, 3]}, {"scores": "s"},
         (1, 2, 3)),
        ({"completions": [{"role": "assistant", "content": t, "score": 1} for t in "abc"]}, {}, (1, 1, 1)),
    ],
)  # fmt: skip
def test_ratings_come_in_several_forms(row: dict[str, Any], map_keys: dict[str, Any], scores: tuple[Any, ...]) -> None:
    ranked = read(RANKED, {"prompt": "Q", **row}, map_keys)
    assert [response[0].content for response in ranked.responses] == ["a", "b", "c"]
    assert ranked.scores == scores


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        ("Q", ["Q"]),
        ("\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant: ", ["Q1", "A1", "Q2"]),
        ("Human: in a text", ["Human: in a text"]),
        ([{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"},
          {"role": "user", "content": "Q2"}], ["Q1", "A1", "Q2"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("handler", [RANKED, SIGNED])
def test_prompts_are_texts_transcripts_or_messages(handler: str, prompt: Any, turns: list[str]) -> None:
    row = {"prompt": prompt, "completions": ITEMS, "response_1": "a", "response_2": "b", "preference_strength": 1}
    assert [turn.content for turn in read(handler, row).prompt.turns] == turns


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"completions": []}, "no_preference"),
        ({"completions": None}, "no_preference"),
        ({"completions": ITEMS[:1]}, "no_preference"),
        ({"completions": "a"}, "not_text"),
        ({"completions": ["a", "b"]}, "no_preference"),
        ({"completions": ["a", "b"], "s": [1]}, "not_text"),
        ({"completions": ["a", "b"], "s": [1, "good"]}, "not_text"),
        ({"completions": ["a", "b"], "s": [1, True]}, "not_text"),
        ({"completions": [{"response": 7, "score": 1}, ITEMS[0]]}, "bad_turns"),
    ],
)
def test_ratings_without_a_meaning_are_counted(row: dict[str, Any], expected: str) -> None:
    row = {"prompt": "Q", "s": None, **row}
    with pytest.raises(RowDropped) as dropped:
        read(RANKED, row, {"scores": "s"})
    assert dropped.value.reason == expected


@pytest.mark.parametrize(
    ("preference", "chosen", "margin"),
    [(-3, "a", 3), ("2", "b", 2), ([-1, -2], "a", 1.5), ([{"score": 1}, {"score": None}], "b", 1), (0, "a", 0)],
)
def test_a_negative_preference_is_for_the_first(preference: Any, chosen: str, margin: float) -> None:
    row = {"prompt": "Q", "response_1": "a", "response_2": "b", "preference_strength": preference}
    pair = read(SIGNED, row)
    assert (pair.chosen[0].content, pair.scores, pair.margin) == (chosen, None, margin)


@pytest.mark.parametrize(
    ("preference", "expected"), [(None, "no_preference"), ([], "no_preference"), ("x", "not_text")]
)
def test_no_preference_is_counted(preference: Any, expected: str) -> None:
    row = {"prompt": "Q", "response_1": "a", "response_2": "b", "preference_strength": preference}
    with pytest.raises(RowDropped) as dropped:
        read(SIGNED, row)
    assert dropped.value.reason == expected


# Pairs with scores in columns of their own, and single responses


def pair_row(**fields: Any) -> dict[str, Any]:
    return {"instruction": "Q", "chosen": "a", "rejected": "b", **fields}


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [(9.5, 8, (9.5, 8.0)), ("3", "3", (3.0, 3.0)), (1, 2, "no_preference"), (None, 2, "no_preference")],
)
def test_scores_of_pairs_are_read_from_their_columns(good: Any, bad: Any, expected: Any) -> None:
    keys = {"score_chosen": "good", "score_rejected": "bad"}
    row = pair_row(good=good, bad=bad)
    if isinstance(expected, tuple):
        pair = read("AlpacaStylePairwiseHandler", row, keys)
        assert (pair.scores, pair.margin) == (expected, expected[0] - expected[1])
        return
    with pytest.raises(RowDropped) as dropped:
        read("AlpacaStylePairwiseHandler", row, keys)
    assert dropped.value.reason == expected


def test_single_responses_with_a_label_are_no_pairs() -> None:
    for label in (True, False, "True"):
        for row in (pair_row(rejected=None, label=label), {"instruction": "Q", "chosen": "a", "label": label}):
            with pytest.raises(RowDropped, match=f"column 'label' is {label}") as dropped:
                columns = resolve_columns(HANDLERS["AlpacaStylePairwiseHandler"].columns, {}, list(pair_row()), "data")
                HANDLERS["AlpacaStylePairwiseHandler"].read(row, columns)
            assert dropped.value.reason == "unpaired"
    assert read("AlpacaStylePairwiseHandler", pair_row(label=True)).chosen[0].content == "a"
    with pytest.raises(RowDropped) as dropped:
        read("AlpacaStylePairwiseHandler", pair_row(rejected=None, label=3))
    assert dropped.value.reason == "empty_response"
    with pytest.raises(ValueError, match="Rows with one response and a column 'label', as for KTO, are no pairs"):
        resolve_columns(
            HANDLERS["SharegptStylePairwiseHandler"].columns,
            {"messages": "messages"},
            ["messages", "label"],
            "kto.json",
        )


# The command line


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def rows(*ratings: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Q{n}", "completions": [f"r{k}" + "x" * 40 * (k == 3) for k in range(len(scores))], "s": scores}
        for n, scores in enumerate(ratings)
    ]


def preprocess(raw: Path, content: list[dict[str, Any]], tokenizer: Path, **options: Any) -> dict[str, Any]:
    raw.write_text("\n".join(map(json.dumps, content)))
    settings = {
        "input": raw, "output_prefix": raw.parent / "out", "handler_name": RANKED, "prompt_type": "chat_template",
        "tokenizer_name_or_path": tokenizer, "map_keys": '{"scores": "s"}', **options,
    }  # fmt: skip
    assert main([f"{key}={value}" for key, value in settings.items()]) == 0
    return read_meta(raw.parent / "out") or {}


def test_every_pair_of_a_row_is_written_or_counted(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = rows([5, 3, 3, 1], [2, 2], [1, None], [4, 3.5])
    options = {"pair_selection": "all", "min_score_margin": 1, "seq_length": 40}
    meta = preprocess(tmp_path / "raw.jsonl", content, tokenizer, **options)
    # Of the first row 5-3, 5-3, 5-1 (too long), 3-3 (tie), 3-1 and 3-1 (too long); of the last, 4-3.5.
    assert meta["rows_dropped"] == {"no_preference": 1, "small_margin": 1, "tie": 2, "too_long": 3}
    assert (meta["rows_in"], meta["further_pairs"], meta["rows_kept"]) == (4, 5, 2)
    assert meta["rows_in"] + meta["further_pairs"] == meta["rows_kept"] + sum(meta["rows_dropped"].values())
    assert (meta["pair_selection"], meta["min_score_margin"]) == ("all", 1.0)
    out = capsys.readouterr().out
    assert re.search(r"rows read +4\n +further pairs +5 +of rows with several responses; .*\n +rows written +2\n", out)
    assert "first in row 4: 0.5, min_score_margin is 1" in out
    texts = open_text_columns(tmp_path / "out", 2, PAIR_COLUMNS)
    assert texts is not None and texts.names == ("score_chosen", "score_rejected", "margin")
    assert [[texts.value(row, name) for name in texts.names] for row in (0, 1)] == [[5.0, 3.0, 2.0]] * 2
    batch = PreferenceDataset.open(str(tmp_path / "out"), margin_column="margin").batch([0])
    assert batch.margins is not None and batch.margins.tolist() == [2.0]


def test_random_pairs_are_recorded_with_their_seed(tmp_path: Path, tokenizer: Path) -> None:
    content = rows(*([4.0, 3.5, 3.0, 2.0] for _ in range(3)))
    meta = preprocess(tmp_path / "raw.jsonl", content, tokenizer, pair_selection="random", seed=7)
    assert (meta["seed"], meta["rows_kept"]) == (7, 3) and "further_pairs" not in meta


def problems(**options: Any) -> list[str]:
    least = {
        "input": "x", "output_prefix": "o", "handler_name": RANKED, "tokenizer_name_or_path": "t",
        "prompt_type": "chat_template",
    }  # fmt: skip
    with pytest.raises(SettingsError) as error:
        parse([f"{key}={value}" for key, value in {**least, **options}.items()], ROOT)
    return error.value.problems


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pair_selection": "best"}, "pair_selection should be one of best_worst, random, all, list, got 'best'"),
        ({"response_end": "eos"}, "response_end should be one of template, end_token, got 'eos'"),
        ({"response_end": "end_token", "prompt_type": "qwen"}, "response_end needs a pair handler and prompt_type"),
        ({"min_score_margin": -1}, "min_score_margin should be at least 0, got -1.0"),
        ({"pair_selection": "all", "handler_name": SIGNED}, "pair_selection needs RankedResponsesPairwiseHandler"),
        ({"min_score_margin": 1, "handler_name": "DialoguePairwiseHandler"}, "min_score_margin needs scores; name"),
        ({"mask_history": "false", "handler_name": "PPOAlpacaStyleInstructionHandler"}, "mask_history needs a pair"),
        ({"handler_name": "DialoguePairwiseHandler", "map_keys": '{"score_chosen": "s"}'},
         "map_keys: score_chosen and score_rejected are named together"),
        ({"map_keys": '{"responses": ["one"]}'}, "map_keys: responses should be a column name or a list of several"),
        ({"dataset_additional_keys": "margin"}, "dataset_additional_keys: margin is written with scores; remove it"),
        ({"row_filter": "code"}, "row_filter should be a JSON object of column names and values, got 'code'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_apply_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    (problem,) = problems(**options)
    assert problem.startswith(sentence)


def test_all_rules_have_the_names_of_online_dpo() -> None:
    assert set(RULES) == set(ONLINE_RULES)


def test_a_filter_names_a_column_of_the_data(tmp_path: Path, tokenizer: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps(rows([1, 2])[0]))
    words = {"input": raw, "output_prefix": tmp_path / "out", "handler_name": RANKED, "prompt_type": "chat_template"}
    words |= {"tokenizer_name_or_path": tokenizer, "map_keys": '{"scores": "s"}', "row_filter": '{"domian": "code"}'}
    assert main([f"{key}={value}" for key, value in words.items()]) == 1
