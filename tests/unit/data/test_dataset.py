"""Token sets as datasets: pairs stay pairs, cuts follow their rule, everything lost is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.indexed import pair_file
from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, PAIR_COLUMNS, PROMPT_COLUMNS
from mindspeed_dpo.data.indexed.column_group_metadata import check_fingerprints, read_meta
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.trainers.run_inputs import check_data

Pair = tuple[list[int], list[int], list[int]]
OWN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
TOKENS = st.lists(st.integers(0, 300), min_size=1, max_size=12)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=12)


def columns_of(prompt: list[int], chosen: list[int], rejected: list[int]) -> dict[str, list[int]]:
    ignored = [IGNORE_INDEX] * len(prompt)
    rows = (prompt + chosen, ignored + chosen, prompt + rejected, ignored + rejected)
    return dict(zip(PAIR_COLUMNS, rows, strict=True))


def write_rows(prefix: Path, rows: list[dict[str, list[int]]], meta: dict[str, Any] | None = None) -> str:
    with writing(prefix, PAIR_COLUMNS) as writer:
        for row in rows:
            writer.append(row)
        writer.commit(meta or {})
    return str(prefix)


def write(prefix: Path, pairs: list[Pair]) -> str:
    return write_rows(prefix, [columns_of(*pair) for pair in pairs])


def read(dataset: PreferenceDataset, rows: Any = None) -> list[Pair]:
    batch = dataset.batch(range(len(dataset)) if rows is None else rows)
    return [
        (prompt.tolist(), chosen.tolist(), rejected.tolist())
        for prompt, (chosen, rejected) in zip(batch.prompts(), batch.responses(), strict=True)
    ]


def numbered(prompt: int, chosen: int, rejected: int) -> Pair:
    """A pair with these lengths whose tokens encode where they come from."""
    return (
        list(range(100, 100 + prompt)),
        list(range(200, 200 + chosen)),
        list(range(300, 300 + rejected)),
    )


@OWN_FOLDER
@given(pairs=PAIRS, data=st.data())
def test_pairs_keep_their_prompt_and_order(tmp_path: Path, pairs: list[Pair], data: st.DataObject) -> None:
    dataset = PreferenceDataset.open(write(tmp_path / "a", pairs))
    assert read(dataset) == pairs
    assert dataset.lengths().tolist() == [[len(part) for part in pair] for pair in pairs]
    order = data.draw(st.permutations(range(len(pairs))))
    assert read(dataset, order) == [pairs[row] for row in order]


@OWN_FOLDER
@given(pairs=PAIRS)
def test_prompt_lengths_do_not_depend_on_how_much_is_scanned_at_once(tmp_path: Path, pairs: list[Pair]) -> None:
    path = write(tmp_path / "a", pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_file, "_SCAN_NUMBERS", 5)
        assert pair_file.PairFile(path).lengths.tolist() == [[len(part) for part in pair] for pair in pairs]


def test_token_zero_is_a_token(tmp_path: Path) -> None:
    pairs = [([0, 0], [0], [0, 1])]
    assert read(PreferenceDataset.open(write(tmp_path / "a", pairs))) == pairs


@OWN_FOLDER
@given(pairs=PAIRS, limit=st.integers(2, 25))
def test_cutting_the_prompt_keeps_its_end_and_complete_responses(tmp_path: Path, pairs: list[Pair], limit: int) -> None:
    expected = []
    for prompt, chosen, rejected in pairs:
        space = limit - max(len(chosen), len(rejected))
        if space >= 1:
            expected.append((prompt[-space:], chosen, rejected))
    check_cut(tmp_path, pairs, limit, "cut_prompt", expected)


@OWN_FOLDER
@given(pairs=PAIRS, limit=st.integers(2, 25))
def test_keeping_the_start_cuts_both_responses_apart(tmp_path: Path, pairs: list[Pair], limit: int) -> None:
    expected = [
        (prompt, (prompt + chosen)[len(prompt) : limit], (prompt + rejected)[len(prompt) : limit])
        for prompt, chosen, rejected in pairs
        if len(prompt) < limit
    ]
    check_cut(tmp_path, pairs, limit, "keep_start", expected)


@OWN_FOLDER
@given(pairs=PAIRS, limit=st.integers(2, 25))
def test_dropping_cuts_nothing(tmp_path: Path, pairs: list[Pair], limit: int) -> None:
    expected = [pair for pair in pairs if len(pair[0]) + max(len(pair[1]), len(pair[2])) <= limit]
    check_cut(tmp_path, pairs, limit, "drop", expected)


def check_cut(tmp_path: Path, pairs: list[Pair], limit: int, truncation: str, expected: list[Pair]) -> None:
    path = write(tmp_path / "a", pairs)
    if not expected:
        with pytest.raises(ValueError, match="no row is fit for training"):
            PreferenceDataset.open(path, seq_length=limit, truncation=truncation)
        return
    dataset = PreferenceDataset.open(path, seq_length=limit, truncation=truncation)
    assert read(dataset) == expected
    assert dataset.lengths().tolist() == [[len(part) for part in pair] for pair in expected]
    assert dataset.counts.num_rows == len(pairs)
    assert dataset.counts.num_used == len(expected) == len(pairs) - sum(dataset.counts.dropped.values())


def test_what_is_lost_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [numbered(2, 3, 3), numbered(8, 3, 4), numbered(1, 10, 1), numbered(5, 5, 2)])
    counts = PreferenceDataset.open(path, seq_length=10).counts
    assert (counts.num_rows, counts.num_used, counts.dropped["too_long"]) == (4, 3, 1)
    assert (counts.prompts_cut, counts.responses_cut) == (1, 0)
    assert counts.summary() == "3 of 4 rows used, 1 dropped (too_long), 1 prompts truncated"
    counts = PreferenceDataset.open(path, seq_length=9, truncation="keep_start").counts
    assert (counts.dropped["too_long"], counts.prompts_cut, counts.responses_cut) == (0, 0, 4)


def test_rows_without_prompt_or_response_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [numbered(2, 0, 3), numbered(2, 3, 0), numbered(0, 3, 3), numbered(1, 1, 2)])
    dataset = PreferenceDataset.open(path)
    assert read(dataset) == [numbered(1, 1, 2)]
    assert (dataset.counts.dropped["empty_response"], dataset.counts.dropped["empty_prompt"]) == (2, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rejected_labels": [IGNORE_INDEX, IGNORE_INDEX, 7]}, "row 1: rejected ids and labels differ in length"),
        (
            {"rejected_labels": [IGNORE_INDEX, 2, 6, 7]},
            "row 1: chosen and rejected have prompts of different lengths",
        ),
    ],
)
def test_columns_that_do_not_fit_are_noticed_on_opening(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    good = columns_of([1, 2], [4, 5], [6, 7])
    with pytest.raises(TokenFileError, match=sentence):
        PreferenceDataset.open(write_rows(tmp_path / "a", [good, {**good, **change}]))


@pytest.mark.parametrize(
    "change", [{"rejected_input_ids": [1, 9, 6, 7]}, {"chosen_labels": [IGNORE_INDEX, IGNORE_INDEX, 4, 9]}]
)
def test_tokens_that_do_not_fit_are_noticed_on_reading(tmp_path: Path, change: dict[str, Any]) -> None:
    good = columns_of([1, 2], [4, 5], [6, 7])
    dataset = PreferenceDataset.open(write_rows(tmp_path / "a", [good, {**good, **change}]))
    dataset.batch([0])
    with pytest.raises(TokenFileError, match="row 1: the prompts differ, or labels are not the ids"):
        dataset.batch([1])


def test_rows_outside_the_set_are_refused(tmp_path: Path) -> None:
    dataset = PreferenceDataset.open(write(tmp_path / "a", [numbered(1, 1, 2)]))
    for row in (-1, 1):
        with pytest.raises(IndexError):
            dataset.batch([row])


def test_an_unknown_truncation_gets_its_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean keep_start"):
        PreferenceDataset.open(write(tmp_path / "a", [numbered(1, 1, 2)]), truncation="keep_strat")


def test_limits_that_leave_no_space_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [numbered(1, 1, 2)])
    with pytest.raises(ValueError, match="seq_length should be at least 2, got 1"):
        PreferenceDataset.open(path, seq_length=1)
    with pytest.raises(ValueError, match="max_prompt_length should be at least 1, got 0"):
        PromptDataset.open(path, max_prompt_length=0)


# Tokens that are not scored


def masked(prompt: list[int], chosen: list[int], rejected: list[int], unscored: set[int]) -> dict[str, list[int]]:
    """Columns of a pair in which the labels of some tokens of its responses are ignored."""
    row = columns_of(prompt, chosen, rejected)
    labels = {
        name: [IGNORE_INDEX if token in unscored else token for token in values]
        for name, values in row.items()
        if name.endswith("labels")
    }
    return {**row, **labels}


def test_ignored_labels_within_a_response_are_tokens_that_are_not_scored(tmp_path: Path) -> None:
    rows = [masked([1, 2], [4, 90, 91, 5], [6, 7], {90, 91}), masked([3], [4, 5], [6, 90, 7], {90})]
    dataset = PreferenceDataset.open(write_rows(tmp_path / "a", rows), seq_length=5, truncation="keep_start")
    assert dataset.lengths().tolist() == [[2, 3, 2], [1, 2, 3]]
    batch = dataset.batch([1, 0])
    scored = batch.scored_by_response()
    assert scored is not None
    assert [[mask.tolist() for mask in pair] for pair in scored] == [
        [[True, True], [True, False, True]],
        [[True, False, False], [True, True]],
    ]
    assert read(dataset) == [([1, 2], [4, 90, 91], [6, 7]), ([3], [4, 5], [6, 90, 7])]
    other = write(tmp_path / "b", [([1], [2], [3])])
    mixed = PreferenceDataset.open(f"{tmp_path / 'a'},{other}").batch([2, 1]).scored_by_response()
    assert mixed is not None and [mask.tolist() for mask in mixed[0]] == [[True], [True]]
    assert PreferenceDataset.open(other).batch([0]).scored is None


# Several sets


def test_sets_are_joined_in_order(tmp_path: Path) -> None:
    a, b = [numbered(1, 1, 2), numbered(9, 2, 2)], [numbered(2, 2, 3)]
    path = f"{write(tmp_path / 'a', a)},{write(tmp_path / 'b', b)}"
    assert read(PreferenceDataset.open(path)) == a + b
    assert read(PreferenceDataset.open(path, seq_length=5, truncation="drop")) == [a[0], *b]


def test_every_set_is_split_and_none_is_in_two_parts(tmp_path: Path) -> None:
    a, b = [numbered(1, 1, n + 2) for n in range(10)], [numbered(2, 2, n + 3) for n in range(20)]
    dataset = PreferenceDataset.open(f"{write(tmp_path / 'a', a)},{write(tmp_path / 'b', b)}")
    splits = dataset.splits("80,10,10")
    assert splits.train.tolist() == [*range(8), *range(10, 26)]
    assert splits.valid.tolist() == [8, 26, 27]
    assert splits.test.tolist() == [9, 28, 29]


def test_weights_shape_the_training_rows_only(tmp_path: Path) -> None:
    a, b = [numbered(1, 1, n + 2) for n in range(10)], [numbered(2, 2, n + 3) for n in range(20)]
    dataset = PreferenceDataset.open(f"3,{write(tmp_path / 'a', a)},1,{write(tmp_path / 'b', b)}")
    splits = dataset.splits("90,10")
    from_a = splits.train < 10
    assert from_a.sum() == 3 * (~from_a).sum()
    assert set(splits.train) == {*range(9), *range(10, 28)}
    assert splits.valid.tolist() == [9, 28, 29]
    halves = np.split(from_a, 2)
    assert abs(int(halves[0].sum()) - int(halves[1].sum())) <= 1
    assert len(dataset) == 30


# Identity


def test_data_of_another_tokenizer_or_template_is_refused(tmp_path: Path) -> None:
    meta = {"tokenizer_fingerprint": "aaa", "prompt_type": "qwen"}
    path = write_rows(tmp_path / "a", [columns_of(*numbered(1, 1, 2))], meta)
    check_fingerprints(path, PAIR_COLUMNS)
    check_fingerprints(path, PAIR_COLUMNS, tokenizer_fingerprint="aaa", prompt_type="qwen")
    with pytest.raises(ValueError, match=r"another tokenizer \(tokenizer_fingerprint aaa, this run has bbb\)"):
        check_fingerprints(path, PAIR_COLUMNS, tokenizer_fingerprint="bbb")
    with pytest.raises(ValueError, match=r"another template \(prompt_type qwen, this run has llama3\)"):
        check_fingerprints(path, PAIR_COLUMNS, prompt_type="llama3")


def test_the_description_of_a_prompt_set_says_nothing_of_the_pairs_beside_it(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a", [columns_of(*numbered(1, 1, 2))], {"prompt_type": "qwen"})
    write_prompts(tmp_path / "a", [[1]])
    check_fingerprints(path, PAIR_COLUMNS, prompt_type="qwen")
    assert len(PreferenceDataset.open(path)) == 1


def test_prompts_of_another_tokenizer_or_template_are_refused(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a", [[1]], {"tokenizer_fingerprint": "aaa", "prompt_type": "qwen"})
    check_data(DataConfig(data_path=path, prompt_type="qwen"), PROMPT_COLUMNS)
    with pytest.raises(ValueError, match=r"another template \(prompt_type qwen, this run has llama3\)"):
        check_data(DataConfig(data_path=path, prompt_type="llama3"), PROMPT_COLUMNS)
    with pytest.raises(ValueError, match="another tokenizer"):
        check_fingerprints(path, PROMPT_COLUMNS, tokenizer_fingerprint="bbb")


def test_sets_without_a_description_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [numbered(1, 1, 2)])
    (tmp_path / "a_packed_meta.json").unlink()
    assert read_meta(path) is None
    check_fingerprints(path, PAIR_COLUMNS, tokenizer_fingerprint="bbb")
    assert len(PreferenceDataset.open(path)) == 1


# Prompts


def write_prompts(prefix: Path, prompts: list[list[int]], meta: dict[str, Any] | None = None) -> str:
    with writing(prefix, ("input_ids", "attention_mask")) as writer:
        for prompt in prompts:
            writer.append({"input_ids": prompt, "attention_mask": [1] * len(prompt)})
        writer.commit(meta or {})
    return str(prefix)


def test_long_prompts_are_dropped_or_keep_their_end(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a", [[1, 2, 3], [], [4, 5, 6, 7], [8]])
    complete = PromptDataset.open(path)
    assert [prompt.tolist() for prompt in complete.prompts([2, 0])] == [[8], [1, 2, 3]]
    assert complete.counts.dropped == {"empty_prompt": 1, "too_long": 0}
    dropped = PromptDataset.open(path, max_prompt_length=3)
    assert [prompt.tolist() for prompt in dropped.prompts(range(2))] == [[1, 2, 3], [8]]
    assert dropped.counts.dropped["too_long"] == 1
    cut = PromptDataset.open(path, max_prompt_length=2, truncation="keep_last")
    assert [prompt.tolist() for prompt in cut.prompts(range(3))] == [[2, 3], [6, 7], [8]]
    assert cut.lengths().tolist() == [2, 2, 1] and cut.counts.prompts_cut == 2


def test_a_pair_set_and_a_prompt_set_share_a_prefix(tmp_path: Path) -> None:
    pairs, prompts = [numbered(1, 1, 2)], [[1, 2], [3]]
    path = write(tmp_path / "a", pairs)
    write_prompts(tmp_path / "a", prompts)
    assert read(PreferenceDataset.open(path)) == pairs
    assert [prompt.tolist() for prompt in PromptDataset.open(path).prompts([0, 1])] == prompts


@pytest.mark.parametrize("part", range(3))
def test_a_negative_token_id_is_named_with_its_row(tmp_path: Path, part: int) -> None:
    damaged = ([1], [2], [3])
    damaged[part].append(-7)
    dataset = PreferenceDataset.open(write(tmp_path / "a", [([1], [2], [3]), damaged]))
    assert read(dataset, [0]) == [([1], [2], [3])]
    with pytest.raises(TokenFileError, match=r"a: row 1: a token id is negative; preprocess again"):
        dataset.batch([1])


def test_a_negative_token_id_of_a_prompt_is_named_with_its_row(tmp_path: Path) -> None:
    with writing(tmp_path / "a", ("input_ids", "attention_mask")) as writer:
        for ids in ([1, 2], [-100, 3]):
            writer.append({"input_ids": ids, "attention_mask": [1, 1]})
        writer.commit({})
    with pytest.raises(TokenFileError, match=r"a: row 1: a token id is negative"):
        PromptDataset.open(str(tmp_path / "a")).prompts([0, 1])
