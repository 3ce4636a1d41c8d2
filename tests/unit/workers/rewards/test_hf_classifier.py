"""Classifiers that are not built here: the scores are what transformers says of the same text, called plainly."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit
from mindspeed_dpo.workers.rewards.hf_classifier import ClassifierScorer, max_length
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier
from mindspeed_dpo.workers.rewards.reward_tokenizer import check_reward_tokenizer
from tests.support.tokenizers import save_tokenizer
from tests.unit.workers.rewards.reward_runs import (
    OWN_TEMPLATE,
    Messages,
    NoColumns,
    OddMessages,
    assert_scores,
    question,
    reward_folder,
    reward_run,
    score,
    silent,
)
from tests.unit.workers.rewards.sample_rollouts import rollouts

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = [4, 0, 5]
CONVERSATIONS = [
    ("<|user|>what is 4?<|end|><|assistant|>", ["a number<|end|>", "this is a b or so, and more of it<|end|>"]),
    ("<|user|>is it?<|end|><|assistant|>", ["it is", "nothing<|end|>"]),
    ("<|user|>5<|end|><|assistant|>", ["abab<|end|>", "x"]),
]
PLAIN = [("what is 4?", ["a number", "this is a b or so, and more of it"]), ("is it?", ["it is", "nothing"]),
         ("5", ["abab", "x"])]  # fmt: skip
BATCH = rollouts(CONVERSATIONS, rows=ROWS)
MODEL = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 64}
CONFIGS: dict[str, Any] = {
    "bert": lambda: BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=1,
        max_position_embeddings=128, pad_token_id=0,
    ),
    "deberta": lambda: DebertaV2Config(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=1,
        max_position_embeddings=128, pad_token_id=0, relative_attention=True, pos_att_type=["p2c", "c2p"],
    ),
    "gpt2": lambda: GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0),
    "gpt2 without padding": lambda: GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, num_labels=1,
                                               pad_token_id=None),
}  # fmt: skip


@cache
def folder(name: str, template: bool = False) -> Path:
    """A tiny classifier with large random weights, so that scores differ, and a tokenizer of its kind."""
    path = Path(mkdtemp(prefix="classifier_"))
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    chat = OWN_TEMPLATE if template else None
    save_tokenizer(path, special=("[CLS]", "[SEP]"), merges=[("a", "b")], bos=None, eos=None, chat_template=chat)
    if not name.startswith("gpt2"):
        pair_up(path)
    return path


def pair_up(path: Path) -> None:
    """Have the tokenizer write pairs of texts as BERT's does."""
    fast = PreTrainedTokenizerFast.from_pretrained(path)
    cls, sep = (fast.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]"))
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=fast.backend_tokenizer, pad_token="<pad>", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], chat_template=fast.chat_template,
    ).save_pretrained(path)  # fmt: skip


@cache
def plainly(path: Path, how: str) -> np.ndarray:
    """[3, 2]: one text, pair of texts or conversation at a time, without any padding."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    own = AutoTokenizer.from_pretrained(path)
    scores = []
    for row, (prompt, responses) in zip(ROWS, PLAIN, strict=True):
        for response in responses:
            if how == "conversation":
                text = own.apply_chat_template(
                    [*question(row), {"role": "assistant", "content": response}], tokenize=False
                )
                inputs = own(text, add_special_tokens=False, return_tensors="pt")
            else:
                inputs = own(*((prompt, response) if how == "pair" else (prompt + response,)), return_tensors="pt")
            with torch.no_grad():
                scores.append(float(model(**inputs).logits))
    assert len(set(scores)) == 6 and np.ptp(scores) > 1e-2
    return np.array(scores).reshape(3, 2)


def run_of(path: Path, **how: Any) -> Any:
    return reward_run(path, model=MODEL, **how)


@pytest.mark.parametrize(
    ("name", "how"),
    [("bert", "pair"), ("deberta", "pair"), ("gpt2", "text"), ("gpt2 without padding", "text")],
)
@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_scores_are_those_of_transformers_on_the_text(name: str, how: str, micro_batch_size: int) -> None:
    run = run_of(folder(name), micro_batch_size=micro_batch_size)
    assert_scores(score(run, BATCH), plainly(folder(name), how))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_chat_template_writes_the_conversation_where_there_is_one(name: str) -> None:
    path = folder(name, template=True)
    assert_scores(score(run_of(path), BATCH), plainly(path, "conversation"))
    assert_scores(score(run_of(path), BATCH, prompts=NoColumns), plainly(path, "pair" if name == "bert" else "text"))


def test_replicas_and_layouts_do_not_matter_and_one_process_speaks() -> None:
    path = folder("bert")
    assert_scores(score(run_of(path), BATCH, 2), plainly(path, "pair"))
    assert_scores(score(run_of(path, layout=(1, 2)), BATCH, 2), plainly(path, "pair"))
    assert silent(run_of(path, layout=(2, 1)), BATCH, 2) == [False, True]


def test_a_conversation_that_cannot_be_written_is_left_out_and_named() -> None:
    path = folder("bert", template=True)
    scored = score(run_of(path), BATCH, prompts=OddMessages)
    np.testing.assert_allclose(scored.scores[:2], plainly(path, "conversation")[:2], rtol=1e-4, atol=1e-4)
    assert np.isnan(scored.scores[2]).all() and "(dataset row 5)" in scored.failures[2]


def test_inputs_longer_than_the_model_takes_are_left_out_and_named() -> None:
    batch = rollouts([CONVERSATIONS[0], ("<|user|>long<|end|>", ["x" * 200, "y"])], rows=[4, 9])
    scored = score(run_of(folder("bert")), batch)
    assert np.isfinite(scored.scores[0]).all() and np.isnan(scored.scores[1]).all()
    assert "207 tokens, but the model's limit is 128" in scored.failures[1]


def test_only_the_marked_answer_is_read_where_that_is_configured() -> None:
    marked = [(prompt, [f"so <answer>{response.removesuffix('<|end|>')}</answer>" for response in responses])
              for prompt, responses in CONVERSATIONS]  # fmt: skip
    run = run_of(folder("bert"), extract_content_for_reward=True)
    assert_scores(score(run, rollouts(marked, rows=ROWS)), plainly(folder("bert"), "pair"))


def test_families_that_are_built_here_are_no_classifiers() -> None:
    for path, expected in ((folder("bert"), True), (folder("gpt2"), True), (reward_folder(), False)):
        role = run_of(path).reward
        assert role is not None and is_classifier(role) is expected
    role = run_of(reward_folder().parent).reward
    assert role is not None and not is_classifier(role), "a folder without config.json"


def copied(tmp_path: Path) -> Path:
    for file in folder("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_several_labels_are_refused_on_the_driver(tmp_path: Path) -> None:
    path = copied(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "bad", "1": "good"}}))
    with pytest.raises(ValueError, match="is a classifier with 2 labels; it must have 1"):
        check_reward_tokenizer(run_of(path))


def test_a_model_that_was_never_trained_to_classify_is_refused(tmp_path: Path) -> None:
    path = copied(tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssertionError, match=r"lacks classifier.weight: it was not trained to classify"):
        score(run_of(path), BATCH)


def test_code_of_a_model_folder_is_never_run(tmp_path: Path) -> None:
    path = copied(tmp_path)
    config = json.loads((path / "config.json").read_text())
    auto_map = {name: f"own.{name}" for name in ("AutoConfig", "AutoModelForSequenceClassification")}
    (path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}))
    (path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(AssertionError, match="holds no classifier that can be loaded"):
        score(run_of(path), BATCH)
    assert not (tmp_path / "ran").exists()


def test_a_template_needs_messages() -> None:
    run = run_of(folder("gpt2", template=True), reward_prompt_type="chat_template")
    check_reward_tokenizer(run, Messages())
    with pytest.raises(ValueError, match="reward_prompt_type=chat_template needs the messages"):
        check_reward_tokenizer(run, NoColumns())
    with pytest.raises(AssertionError, match="reward_prompt_type needs the messages"):
        score(run, BATCH, prompts=NoColumns)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        check_reward_tokenizer(run_of(folder("gpt2"), reward_prompt_type="chat_template"))


class Config:
    max_position_embeddings = 512


@pytest.mark.parametrize(("limit", "expected"), [(128, 128), (10**30, 512), (4096, 512)])
def test_the_longest_input_is_the_smaller_limit(limit: int, expected: int) -> None:
    own = AutoTokenizer.from_pretrained(folder("bert"))
    own.model_max_length = limit
    assert max_length(Config(), own) == expected
    assert max_length(object(), own) == (None if limit == 10**30 else limit)


@pytest.mark.parametrize(
    ("limit", "passes"),
    [(MicroBatchLimit(units=1), [[1, 2], [3, 7], [8, 9]]), (MicroBatchLimit(rows=16), [[1, 2, 3], [7, 8], [9]])],
    ids=["by prompts", "by tokens, padding included"],
)
def test_inputs_of_like_length_share_a_pass(limit: MicroBatchLimit, passes: list[list[int]]) -> None:
    lengths: list[list[int]] = []
    model = AutoModelForSequenceClassification.from_pretrained(folder("bert"))
    forward = model.forward

    def spied(**inputs: torch.Tensor) -> Any:
        lengths.append(inputs["attention_mask"].sum(1).tolist())
        return forward(**inputs)

    model.forward = spied
    scorer = ClassifierScorer(model, None, None, None, max_length=None, limit=limit)  # type: ignore[arg-type]
    features = [{"input_ids": [5] * n} for n in (7, 2, 9, 3, 8, 1)]
    logits = scorer._logits(features, 2)
    assert lengths == passes
    alone = torch.cat([scorer._logits([one], 1) for one in features])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
