"""The datasets of configs/datasets on rows of the form in which they are published, made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from preprocess_data import main
from tests.support.tokenizers import save_chat_tokenizer, text_of

Pairs = list[tuple[str, str]]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def dialogue(*texts: str) -> list[dict[str, str]]:
    return [message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]


def ultrafeedback(*scores: float | None) -> dict[str, Any]:
    annotation = {"Input": [{"Rating": "5", "Rationale": "x"}]}
    completions = [
        {
            "annotations": {"helpfulness": annotation, "honesty": annotation},
            "custom_system_prompt": "Be honest.",
            "model": f"model{n}",
            "principle": "honesty",
            "response": f"response {n}",
            "critique": "Fine.",
            "fine-grained_score": None if score is None else score / 2,
            "overall_score": score,
        }
        for n, score in enumerate(scores)
    ]
    return {
        "source": "evol_instruct",
        "instruction": "Q",
        "models": [c["model"] for c in completions],
        "completions": completions,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def nectar(*ranks: int) -> dict[str, Any]:
    answers = [{"answer": f" response {rank}", "model": f"m{rank}", "rank": float(rank)} for rank in ranks]
    prompt = "\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant: "
    fields = {"turns": 2, "num_responses": len(ranks), "source": ["lmsys-chat-1m"], "good_natured": True}
    return {"prompt": prompt, "answers": answers, **fields}


def helpsteer3(preference: int, *individual: int, domain: str = "code") -> dict[str, Any]:
    return {
        "domain": domain,
        "language": "python",
        "context": dialogue("Q1", "A1", "Q2"),
        "response1": "first",
        "response2": "second",
        "overall_preference": preference,
        "individual_preference": [
            {"score": score, "reasoning": "r", "feedback1": "f", "feedback2": "g"} for score in individual
        ],
    }


def distilabel(ratings: list[float] | None, in_train: bool = False) -> dict[str, Any]:
    tie = ratings is not None and ratings[0] == ratings[1]
    return {
        "system": "S", "input": "Q", "chosen": "a", "rejected": "b", "generations": ["a", "b"],
        "order": ["chosen", "rejected"], "labelling_model": "gpt-4", "labelling_prompt": [message("system", "x")],
        "raw_labelling_response": "9 8", "rating": ratings, "rationale": "r", "status": "tie" if tie else "unchanged",
        "original_chosen": "a", "original_rejected": "b", "chosen_score": None, "in_gsm8k_train": in_train,
    }  # fmt: skip


def saferlhf(better: int, safer: int) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": "Q", "better_response_id": better, "safer_response_id": safer}
    for n in (0, 1):
        row |= {
            f"response_{n}": f"r{n}", f"response_{n}_source": "Alpaca", f"is_response_{n}_safe": bool(n),
            f"response_{n}_harm_category": {"Violence": False}, f"response_{n}_severity_level": 0,
            f"response_{n}_sha256": "0",
        }  # fmt: skip
    return row


TULU = {"id": "1", "prompt": "Q1", "source": "wildchat", "rejected": dialogue("Q1", "A1", "Q2", "bad")}
TRANSCRIPT = "\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant:"
CASES: dict[str, tuple[list[dict[str, Any]], Pairs, dict[str, int]]] = {
    "ultrafeedback": (
        [ultrafeedback(5, 9.5, None, 2), ultrafeedback(4, 4, 4, 4), ultrafeedback(7, None), ultrafeedback(3, 7)],
        [("response 1", "response 3"), ("response 1", "response 0")],
        {"tie": 1, "no_preference": 1},
    ),
    "nectar": ([nectar(3, 1, 2, 4, 7, 6, 5)], [("response 1", "response 7")], {}),
    "helpsteer3": ([helpsteer3(-2, -3, -1), helpsteer3(0, -1, 1), helpsteer3(1, 1, 0)],
                   [("first", "second"), ("second", "first")], {"tie": 1}),
    "tulu3_preference": ([{**TULU, "chosen": dialogue("Q1", "A1", "Q2", "good")}], [("good", "bad")], {}),
    "skywork_reward_preference": (
        [{"chosen": dialogue("Q", "good"), "rejected": dialogue("Q", "bad"), "source": "magpie_ultra"}],
        [("good", "bad")],
        {},
    ),
    "hh_rlhf": ([{"chosen": f"{TRANSCRIPT} good", "rejected": f"{TRANSCRIPT} bad"},
                 {"chosen": f"{TRANSCRIPT} same", "rejected": f"{TRANSCRIPT} same"}],
                [("good", "bad")], {"identical_responses": 1}),
    "pku_saferlhf": ([saferlhf(0, 1)], [("r0", "r1")], {}),
    "pku_saferlhf_safety": ([saferlhf(0, 1)], [("r1", "r0")], {}),
    "distilabel_orca": (
        [distilabel([8, 9]), distilabel([9, 9]), distilabel(None), distilabel([9, 1], in_train=True)],
        [("b", "a")],
        {"tie": 1, "no_preference": 1, "filtered": 1},
    ),
    "cvalues_comparison": (
        [{"prompt": "问", "pos_resp": "安全", "neg_resp": "危险", "pos_type": "拒绝为主", "neg_type": "风险回复"}],
        [("安全", "危险")],
        {},
    ),
    "zhihu_rlhf_3k": (
        [{"prompt": "问\n题", "question_id": "1", "chosen": '好"的"', "upvotes_chosen": "9", "rejected": "坏",
          "upvotes_rejected": "2"}],
        [('好"的"', "坏")],
        {},
    ),
    "coig_p": (
        [{"conversations": [{"from": "human", "value": "问"}], "chosen": {"from": "gpt", "value": "好"},
          "rejected": {"from": "gpt", "value": "坏"}, "domain": "chat"}],
        [("好", "坏")],
        {},
    ),
}  # fmt: skip
SUFFIXES = {"zhihu_rlhf_3k": ".tsv", "ultrafeedback": ".parquet", "distilabel_orca": ".parquet"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def preprocess(name: str, raw: Path, tokenizer: Path, **options: Any) -> str:
    overrides = {"input": raw, "output_prefix": raw.parent / "out", "tokenizer_name_or_path": tokenizer, **options}
    overrides = {"workers": 1, "max_invalid_share": 0, **overrides}
    assert main([name, *(f"{key}={value}" for key, value in overrides.items())]) == 0
    return str(raw.parent / "out")


def written_pairs(prefix: str, tokenizer: Path) -> Pairs:
    """The texts of chosen and rejected responses, which end with their end token."""
    loaded, dataset = load_tokenizer(tokenizer), PreferenceDataset.open(prefix)
    texts = [[text_of(loaded, ids.tolist()) for ids in pair] for pair in dataset.batch(range(len(dataset))).responses()]
    assert all(text.endswith("<|end|>") for pair in texts for text in pair)
    return [
        (chosen.removesuffix("<|end|>").strip(), rejected.removesuffix("<|end|>").strip()) for chosen, rejected in texts
    ]


@pytest.mark.parametrize("name", CASES)
def test_published_rows_become_their_pairs(tmp_path: Path, tokenizer: Path, name: str) -> None:
    rows, pairs, dropped = CASES[name]
    prefix = preprocess(name, save(tmp_path / f"raw{SUFFIXES.get(name, '.jsonl')}", rows), tokenizer)
    assert written_pairs(prefix, tokenizer) == pairs
    assert (read_meta(prefix) or {})["rows_dropped"] == dropped


def margins(prefix: str) -> list[float]:
    dataset = PreferenceDataset.open(prefix, margin_column="margin")
    values = dataset.batch(range(len(dataset))).margins
    assert values is not None
    return values.tolist()


def test_ratings_are_the_margins_of_pairs(tmp_path: Path, tokenizer: Path) -> None:
    prefix = preprocess("ultrafeedback", save(tmp_path / "raw.jsonl", CASES["ultrafeedback"][0]), tokenizer)
    assert margins(prefix) == [7.5, 4.0]
    tags = '{"prompt": "instruction", "responses": "completions", "tags": {"score_tag": "fine-grained_score"}}'
    prefix = preprocess("ultrafeedback", tmp_path / "raw.jsonl", tokenizer, map_keys=tags)
    assert margins(prefix) == [3.75, 2.0]
    prefix = preprocess("nectar", save(tmp_path / "raw.jsonl", CASES["nectar"][0]), tokenizer)
    assert margins(prefix) == [6.0]


def test_seven_ranked_responses_can_be_kept_as_a_ranking(tmp_path: Path, tokenizer: Path) -> None:
    raw = save(tmp_path / "raw.jsonl", CASES["nectar"][0])
    prefix = preprocess("nectar", raw, tokenizer, pair_selection="list")
    assert written_pairs(prefix, tokenizer) == CASES["nectar"][1] and margins(prefix) == [6.0]
    loaded, batch = load_tokenizer(tokenizer), PreferenceDataset.open(prefix, ranked=True).batch([0])
    texts = [text_of(loaded, ids.tolist()).removesuffix("<|end|>").strip() for ids in batch.responses()[0]]
    assert texts == [f"response {rank}" for rank in range(1, 8)]


def test_annotators_of_helpsteer_may_be_averaged_and_domains_selected(tmp_path: Path, tokenizer: Path) -> None:
    rows = [helpsteer3(-2, -3, -1), helpsteer3(0, -1, 2), helpsteer3(1, 1, domain="stem")]
    keys = {"prompt": "context", "responses": ["response1", "response2"], "preference": "individual_preference"}
    options = {"map_keys": json.dumps(keys), "row_filter": '{"domain": ["code", "general"]}'}
    prefix = preprocess("helpsteer3", save(tmp_path / "raw.jsonl", rows), tokenizer, **options)
    assert written_pairs(prefix, tokenizer) == [("first", "second"), ("second", "first")]
    assert margins(prefix) == [2.0, 0.5]
    assert (read_meta(prefix) or {})["rows_dropped"] == {"filtered": 1}
