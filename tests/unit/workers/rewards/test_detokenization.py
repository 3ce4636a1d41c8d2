"""What a function reads of a prompt and its responses."""

from __future__ import annotations

import pytest

from mindspeed_dpo.workers.rewards.answer_extraction import extracted_answer
from tests.unit.workers.rewards.sample_rollouts import reader, rollouts, tokenizer


def test_prompts_keep_the_tokens_of_the_template_and_responses_lose_theirs() -> None:
    batch = rollouts([("<s><|user|>hi<|end|><|assistant|>", ["a <|user|> b .<|end|>", " c"])], rows=[5])
    (read,) = reader().read(batch)
    assert read.row == 5
    assert read.prompt == "<s><|user|>hi<|end|><|assistant|>"
    assert read.completions == ("a  b .", " c")
    assert read.completion_ids == tuple(response.tolist() for response in batch.samples.responses()[0])
    assert read.completion_ids[0][-1] == tokenizer().convert_tokens_to_ids("<|end|>")


def test_a_stop_token_is_no_text_even_where_it_is_not_special() -> None:
    batch = rollouts([("x", ["ab<|end|>", "abc"])])
    batch.ended[0, 1] = True
    assert reader().read(batch)[0].completions == ("ab", "ab")


def test_columns_follow_the_rows() -> None:
    read = reader({"labels": lambda row: row * 10}).read(rollouts([("x", "ab"), ("y", "cd")], rows=[3, 1]))
    assert [one.columns for one in read] == [
        {"messages": [{"role": "user", "content": "question 3"}], "labels": 30},
        {"messages": [{"role": "user", "content": "question 1"}], "labels": 10},
    ]


def test_a_column_that_the_prompts_lack_is_named() -> None:
    incomplete = reader({"labels": int})
    incomplete._dataset = reader()._dataset
    with pytest.raises(ValueError, match=r"dataset_additional_keys names labels, but .* only the columns messages"):
        incomplete.read(rollouts([("x", "ab")]))


def test_a_long_prompt_is_named_by_its_ends() -> None:
    (read,) = reader().read(rollouts([("<|user|>" + "a" * 500 + "?", "ab")]))
    assert len(str(read)) < 200
    assert str(read).startswith("prompt '<|user|>aaa") and str(read).endswith("aaa?' (dataset row 0)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no pair", "no pair"),
        ("think <answer>42</answer> done", "42"),
        ("<answer>1</answer> or <answer>\n2 </answer>", "\n2 "),
        ("<answer>1</answer> or <answer>2", "1"),
        ("<answer>1 <answer>2</answer></answer>", "2"),
        ("</answer>1<answer>", "</answer>1<answer>"),
        ("<answer></answer>", ""),
    ],
)
def test_the_answer_is_what_stands_in_the_last_complete_pair(text: str, expected: str) -> None:
    assert extracted_answer(text) == expected


def test_marked_answers_are_extracted_where_configured() -> None:
    batch = rollouts([("x", ["so <answer>7</answer>.<|end|>", "no"])])
    assert reader(extract_answer=True).read(batch)[0].completions == ("7", "no")
    assert reader().read(batch)[0].completions == ("so <answer>7</answer>.", "no")
