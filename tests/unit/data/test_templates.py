"""Every shipped template, assembled and compared with a text written by hand."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, RowDropped, Turn
from mindspeed_dpo.data.tokenization.template_encoder import TemplateEncoder
from mindspeed_dpo.data.tokenization.template_file import load_template, template_names
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from tests.support.tokenizers import save_tokenizer, text_of

SPECIAL = [
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "[gMASK]",
        "sop",
        "<sop>",
    ),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "<start_of_turn>", "<end_of_turn>"),
    *("<｜User｜>", "<｜Assistant｜>", "<reserved_106>", "<reserved_107>", "<|role_end|>", "<|endoftext|>", "<|end|>"),
]

QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
R1 = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think><answer> answer here </answer>"
)


def im(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def im_turns(system: str, between: str) -> str:
    """Two questions and the first response in ChatML, with what is between that response and the next question."""
    header = "<|im_start|>assistant\n"
    return f"{system}{im('user', 'Q1')}{header}A1<|im_end|>{between}{im('user', 'Q2')}{header}"


def l3(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


S = im("system", "S")
NO_THOUGHT = "<think>\n\n</think>\n\n"
RETOOL = "<|im_end|>\nThe answer format must be: \\boxed{'The final answer goes here.'}\n<|im_start|>assistant"

# name -> prompt of system S, Q1, A1, Q2, and response A.
EXPECTED: dict[str, tuple[str, str]] = {
    "empty": ("SQ1A1Q2", "A"),
    "default": ("S\nHuman: Q1\nAssistant:A1</s>\nHuman: Q2\nAssistant:", "A</s>"),
    "trl": ("<s>SQ1A1Q2", "A"),
    "chatml": (im_turns(S, "\n"), "A<|im_end|>"),
    "chatml_de": (im_turns(S, "\n"), "A<|im_end|>"),
    "qwen": (im_turns(S, "\n"), "A<|im_end|>"),
    "qwen_math_r1": (im_turns(S, "\n"), "A<|im_end|>"),
    "qwen_r1": (
        im_turns(S, "\n").replace("user\nQ", f"user\n{R1}Put your final answer within \\\\boxed{{}}. Q"),
        "A<|im_end|>",
    ),
    "qwen_r1_rl": (
        im_turns(S, "\n").replace("user\nQ", f"user\n{R1}. Put your final answer within \\boxed{{}}.\nQ"),
        "A<|im_end|>",
    ),
    "qwen3": (im_turns(S, "\n") + NO_THOUGHT, "A<|im_end|>\n"),
    "qwen_lf": (im_turns(S, "\n\n"), "A<|im_end|>\n"),
    "qwen_retool": (im_turns(S, "\n").replace("<|im_end|>\n<|im_start|>assistant", RETOOL), "A<|im_end|>"),
    "qwen_search_tool": (im_turns(S, "\n").replace("<|im_end|>\n<|im_start|>assistant", RETOOL), "A<|im_end|>"),
    "plm": (im_turns(S, "\n"), "A<|im_end|>\n"),
    "magistral": (
        "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]Q1[/INST]A1</s>[INST]Q2[/INST]" + NO_THOUGHT,
        "A</s>",
    ),
    "intern2": (f"<s>{im_turns(S, chr(10))}", "A<|im_end|>\n"),
    "llama3": (
        f"<s>{l3('system')}S<|eot_id|>{l3('user')}Q1<|eot_id|>{l3('assistant')}A1<|eot_id|>"
        f"{l3('user')}Q2<|eot_id|>{l3('assistant')}",
        "A<|eot_id|>",
    ),
    "llama2": ("<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ1 [/INST]A1</s><s>[INST] Q2 [/INST]", "A</s>"),
    "mistral": ("<s>S[INST] Q1 [/INST]A1</s>[INST] Q2 [/INST]", "A</s>"),
    "mixtral": ("<s>S[INST] Q1 [/INST]A1</s>[INST] Q2 [/INST]", "A</s>"),
    "deepseek2": ("<s>S\n\nUser: Q1\n\nAssistant:A1</s>User: Q2\n\nAssistant:", "A</s>"),
    "deepseek2-lite": ("<s>S\n\nUser: Q1\n\nAssistant:A1</s>User: Q2\n\nAssistant:", "A</s>"),
    "minicpm3": ("<s>S\n\nUser: Q1\n\nAssistant:A1</s>User: Q2\n\nAssistant:", "A</s>"),
    "deepseek3": ("<s>S<｜User｜>Q1<｜Assistant｜>A1</s><｜User｜>Q2<｜Assistant｜>", "A</s>"),
    "deepseek3_r1": (
        "<s>S[R1]<｜User｜>Q1<｜Assistant｜>A1</s>[R1]<｜User｜>Q2<｜Assistant｜>".replace(
            "[R1]", f"{R1}. Put your final answer within \\boxed{{}}. "
        ),
        "A</s>",
    ),
    "gemma": (
        "<s>S<start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n",
        "A</s>",
    ),
    "baichuan2": ("S<reserved_106>Q1<reserved_107>A1<reserved_106>Q2<reserved_107>", "A</s>"),
    "cpm": ("<s>S<用户>Q1<AI>A1</s><用户>Q2<AI>", "A</s>"),
    "chatglm2": ("[gMASK]sopS[Round 0]\n\n问：Q1\n\n答：A1\n\n[Round 1]\n\n问：Q2\n\n答：", "A</s>"),
    "chatglm3": (
        "[gMASK]sop<|system|>\nS<|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>",
        "\nA</s>",
    ),
    "chatglm3_system": (
        "[gMASK]sop<|system|>\nS<|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>",
        "\nA</s>",
    ),
    "glm4": ("[gMASK]<sop><|system|>\nS<|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>", "\nA</s>"),
    "glm4_moe": (
        f"[gMASK]<sop><|system|>\nS<|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>{NO_THOUGHT}",
        "\nA</s>",
    ),
    "alpaca": (
        "S### Instruction:\nQ1\n\n### Response:\nA1</s>\n\n### Instruction:\nQ2\n\n### Response:\n",
        "A</s>",
    ),
    "hunyuan": ("SQ1A1Q2", "A"),
    "bailing_mini": (
        "<role>SYSTEM</role>S<|role_end|><role>HUMAN</role>Q1<|role_end|><role>ASSISTANT</role>A1<|role_end|>"
        "<role>HUMAN</role>Q2<|role_end|><role>ASSISTANT</role>",
        "A<|role_end|></s>",
    ),
    "gpt_oss": (
        "<|start|>system<|message|>S<|end|><|start|>user<|message|>Q1<|end|><|start|>assistantA1<|end|>"
        "<|start|>user<|message|>Q2<|end|><|start|>assistant"
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>",
        "A<|end|></s>",
    ),
}

DEFAULT_SYSTEMS = {
    **{
        name: f"<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n\nYou may call one or more functions to "
        "assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n"
        f'<tools>\n{{"type": "function", "function": {{"name": "{function}", '
        for name, function in (("qwen_retool", "code_interpreter"), ("qwen_search_tool", "search"))
    },
    "plm": QWEN_SYSTEM,
    "magistral": "<s>[SYSTEM_PROMPT]system_prompt\n\nA user will ask you to solve a task. You should first draft your "
    "thinking process (inner monologue) until you have derived the final answer.",
    "chatml_de": im("system", "Du bist ein freundlicher und hilfsbereiter KI-Assistent."),
    "qwen": QWEN_SYSTEM,
    "qwen_math_r1": im("system", "Please reason step by step, and put your final answer within \\boxed{}."),
    "qwen_r1": QWEN_SYSTEM,
    "qwen_r1_rl": QWEN_SYSTEM,
    "qwen_lf": im("system", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "chatglm3_system": "[gMASK]sop<|system|>\nYou are ChatGLM3, a large language model trained by Zhipu.AI. Follow the "
    "user's instructions carefully. Respond using markdown.",
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n",
    "hunyuan": "You are a helpful assistant.",
    "gpt_oss": "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.<|end|>",
}

# What a system text § adds where a template has no default one; the bare text elsewhere.
SYSTEM_PARTS = {
    **dict.fromkeys(("chatml", "qwen3", "intern2"), im("system", "§")),
    **dict.fromkeys(("deepseek2", "deepseek2-lite", "minicpm3"), "§\n\n"),
    **dict.fromkeys(("chatglm3", "glm4", "glm4_moe"), "<|system|>\n§"),
    "default": "§\n",
    "llama2": "<<SYS>>\n§\n<</SYS>>\n\n",
    "llama3": f"{l3('system')}§<|eot_id|>",
    "bailing_mini": "<role>SYSTEM</role>§<|role_end|>",
}

TURNS = (Turn("user", "Q1"), Turn("assistant", "A1"), Turn("user", "Q2"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), special=SPECIAL)


def encoder(name: str, directory: Path, path: Path | None = None, thinking: bool | None = None) -> TemplateEncoder:
    return TemplateEncoder(load_template(name, path), load_tokenizer(directory), thinking)


def pair(prompt: Prompt, chosen: str = "A", rejected: str = "B") -> PairExample:
    return PairExample.of_texts(prompt, chosen, rejected)


def test_every_shipped_template_is_expected_here() -> None:
    assert set(template_names()) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_dialogue_reads_as_written_by_hand(name: str, directory: Path) -> None:
    subject = encoder(name, directory)
    tokens = subject.pair(pair(Prompt(TURNS, "S")))
    prompt, response = EXPECTED[name]
    assert text_of(subject.tokenizer, tokens.prompt) == prompt
    assert text_of(subject.tokenizer, tokens.chosen) == response
    assert text_of(subject.tokenizer, tokens.rejected) == response.replace("A", "B")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_row_without_system_text_gets_the_default(name: str, directory: Path) -> None:
    subject = encoder(name, directory)
    bare = text_of(subject.tokenizer, subject.prompt(Prompt(TURNS[:1])))
    with_system = text_of(subject.tokenizer, subject.prompt(Prompt(TURNS[:1], "§")))
    if name in DEFAULT_SYSTEMS:
        assert bare.startswith(DEFAULT_SYSTEMS[name])
    else:
        assert bare == with_system.replace(SYSTEM_PARTS.get(name, "§"), "", 1)


def test_special_tokens_are_single_ids(directory: Path) -> None:
    subject = encoder("llama3", directory)
    tokens = subject.pair(pair(Prompt(TURNS[:1], "S")))
    tokenizer = subject.tokenizer
    assert tokens.prompt[0] == tokenizer.bos_token_id
    assert tokens.chosen == [tokenizer.convert_tokens_to_ids("A"), tokenizer.convert_tokens_to_ids("<|eot_id|>")]
    assert tokenizer.eos_token == "<|eot_id|>"


def test_a_thought_in_a_field_of_its_own_is_written_before_the_response(directory: Path) -> None:
    subject = encoder("qwen3", directory)
    written = PairExample.of_texts(Prompt(TURNS[:1]), "<think>\nhm\n</think>\n\nA", "B")
    apart = PairExample.of_texts(Prompt(TURNS[:1]), "A", "B", chosen_thought="hm\n")
    assert subject.pair(apart) == subject.pair(written)
    both = replace(written, chosen=(replace(written.chosen[0], thought="hm"),))
    for name, example in (("llama3", apart), ("qwen3", both)):
        with pytest.raises(RowDropped) as dropped:
            encoder(name, directory).pair(example)
        assert dropped.value.reason == "unsupported_field"
    assert subject.reference(Turn("assistant", "A", "hm\n")) == written.chosen[0].content
    assert encoder("llama3", directory).reference(Turn("assistant", "A")) == "A"
    with pytest.raises(RowDropped):
        encoder("llama3", directory).reference(Turn("assistant", "A", "hm"))


def spans(subject: TemplateEncoder, ids: list[int], scored: list[bool] | None) -> str:
    """The text of a response with what is scored in quotes."""
    parts = itertools.groupby(zip(ids, scored or [True] * len(ids), strict=True), key=lambda item: item[1])
    texts = [(is_scored, text_of(subject.tokenizer, [token for token, _ in part])) for is_scored, part in parts]
    return "".join(f"«{text}»" if is_scored else text for is_scored, text in texts)


@pytest.mark.parametrize(
    ("name", "prompt", "chosen"),
    [
        ("llama3", f"<s>{l3('user')}Q1<|eot_id|>{l3('assistant')}",
         f"«A<|eot_id|>»{l3('user')}Q<|eot_id|>{l3('assistant')}«B<|eot_id|>»"),
        ("gemma", "<s><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\n",
         "«A»<end_of_turn>\n<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n«B</s>»"),
        ("qwen3", f"{im('user', 'Q1')}<|im_start|>assistant\n{NO_THOUGHT}",
         f"«A<|im_end|>\n»{im('user', 'Q')}<|im_start|>assistant\n«B<|im_end|>\n»"),
    ],
)  # fmt: skip
def test_of_several_messages_those_of_the_assistant_are_scored(
    directory: Path, name: str, prompt: str, chosen: str
) -> None:
    subject = encoder(name, directory)
    several = (Turn("assistant", "A"), Turn("user", "Q"), Turn("assistant", "B"))
    tokens = subject.pair(PairExample(Prompt(TURNS[:1]), several, (Turn("assistant", "C"),)))
    assert text_of(subject.tokenizer, tokens.prompt) == prompt
    assert spans(subject, tokens.chosen, tokens.chosen_scored) == chosen
    assert tokens.rejected_scored is None and tokens.rejected == subject.pair(pair(Prompt(TURNS[:1]), "C")).chosen


@pytest.mark.parametrize("name", EXPECTED)
def test_all_messages_of_the_assistant_may_be_scored(directory: Path, name: str) -> None:
    last = encoder(name, directory).pair(pair(Prompt(TURNS, "S")))
    subject = TemplateEncoder(load_template(name), load_tokenizer(directory), mask_history=False)
    every = subject.pair(pair(Prompt(TURNS, "S")))
    assert (every.prompt + every.chosen, every.prompt + every.rejected) == (
        last.prompt + last.chosen,
        last.prompt + last.rejected,
    )
    first, second = re.findall("«(.*?)»", spans(subject, every.chosen, every.chosen_scored), re.DOTALL)
    assert "A1" in first and "Q" not in first and second == EXPECTED[name][1]
    assert subject.fingerprint != encoder(name, directory).fingerprint


def test_scored_thoughts_that_a_template_removes_drop_the_row(directory: Path) -> None:
    thinking = (Turn("assistant", "<think>\nhm\n</think>\n\nA"), Turn("user", "Q"), Turn("assistant", "B"))
    with pytest.raises(RowDropped, match="qwen3 removes the thoughts of earlier turns") as dropped:
        encoder("qwen3", directory).pair(PairExample(Prompt(TURNS[:1]), thinking, (Turn("assistant", "C"),)))
    assert dropped.value.reason == "changed_by_later_turn"


def test_a_thought_of_an_earlier_response_is_not_lost(directory: Path) -> None:
    turns = (TURNS[0], replace(TURNS[1], thought="hm"), TURNS[2])
    with pytest.raises(RowDropped) as dropped:
        encoder("llama3", directory).prompt(Prompt(turns))
    assert dropped.value.reason == "unsupported_field"
    reasoning = encoder("qwen3", directory)
    assert reasoning.prompt(Prompt(turns)) == reasoning.prompt(Prompt(TURNS))


def test_observations_are_read_like_questions(directory: Path) -> None:
    turns = (*TURNS[:2], Turn("observation", "42"))
    subject = encoder("qwen3", directory)
    text = text_of(subject.tokenizer, subject.prompt(Prompt(turns)))
    assert "<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n" in text
    subject = encoder("mistral", directory)
    assert text_of(subject.tokenizer, subject.prompt(Prompt(turns))).endswith("[INST] 42 [/INST]")


def test_no_merge_crosses_a_slot(tmp_path: Path) -> None:
    """`chatglm3` responses start with a newline slot; a tokenizer that would merge it with the text must not."""
    directory = save_tokenizer(tmp_path, special=SPECIAL, merges=[("Ċ", "A"), (":", "A")])
    subject = encoder("chatglm3", directory)
    chosen = subject.pair(pair(Prompt(TURNS[:1]))).chosen
    assert [text_of(subject.tokenizer, [token]) for token in chosen] == ["\n", "A", "</s>"]
    subject = encoder("deepseek2", directory)
    tokens = subject.pair(pair(Prompt(TURNS[:1])))
    assert text_of(subject.tokenizer, tokens.prompt[-1:]) == ":"


def test_content_that_looks_like_a_placeholder_stays(directory: Path) -> None:
    subject = encoder("chatglm2", directory)
    prompt = Prompt((Turn("user", "{{content}} and {{idx}}"),))
    assert "问：{{content}} and {{idx}}\n" in text_of(subject.tokenizer, subject.prompt(prompt))


THOUGHT = "<think>\nhm\n</think>\n\nA"
CASES = [
    # enable_thinking, chosen, rejected -> end of the prompt, chosen, rejected
    (True, THOUGHT, "B", "", THOUGHT, f"{NO_THOUGHT}B"),
    (True, "A", "B", "", f"{NO_THOUGHT}A", f"{NO_THOUGHT}B"),
    (False, THOUGHT, "B", NO_THOUGHT, "A", "B"),
    (False, "A", "B", NO_THOUGHT, "A", "B"),
    (None, THOUGHT, "B", "", THOUGHT, f"{NO_THOUGHT}B"),
    (None, "B", THOUGHT, "", f"{NO_THOUGHT}B", THOUGHT),
    (None, "A", "B", NO_THOUGHT, "A", "B"),
]


@pytest.mark.parametrize(("thinking", "chosen", "rejected", "end", "chosen_text", "rejected_text"), CASES)
def test_thoughts_follow_one_rule_for_the_pair(
    directory: Path, thinking: bool | None, chosen: str, rejected: str, end: str, chosen_text: str, rejected_text: str
) -> None:
    subject = encoder("qwen3", directory, thinking=thinking)
    tokens = subject.pair(pair(Prompt(TURNS[:1]), chosen, rejected))
    assert text_of(subject.tokenizer, tokens.prompt) == f"{im('user', 'Q1')}<|im_start|>assistant\n{end}"
    assert text_of(subject.tokenizer, tokens.chosen) == f"{chosen_text}<|im_end|>\n"
    assert text_of(subject.tokenizer, tokens.rejected) == f"{rejected_text}<|im_end|>\n"


@pytest.mark.parametrize("thinking", [True, False, None])
def test_earlier_responses_lose_their_thoughts(directory: Path, thinking: bool | None) -> None:
    turns = (TURNS[0], Turn("assistant", "<think>\nlong\n</think>\n\nA1"), TURNS[2])
    subject = encoder("qwen3", directory, thinking=thinking)
    text = text_of(subject.tokenizer, subject.prompt(Prompt(turns)))
    assert "assistant\nA1<|im_end|>\n" in text and "long" not in text


def test_a_response_that_is_only_a_thought_is_dropped_when_thoughts_are_removed(directory: Path) -> None:
    with pytest.raises(RowDropped) as dropped:
        encoder("qwen3", directory, thinking=False).pair(pair(Prompt(TURNS[:1]), "<think>x</think>\n", "B"))
    assert dropped.value.reason == "empty_response"


def test_thinking_needs_a_reasoning_template(directory: Path) -> None:
    with pytest.raises(
        ValueError, match="enable_thinking applies to reasoning templates such as qwen3, and qwen is not one"
    ):
        encoder("qwen", directory, thinking=True)


def test_a_template_that_is_a_program_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"prompt_type 'deepseek4' is refused: .* write a template to prompt_type_path"
    ):
        load_template("deepseek4")


def test_responses_that_never_end_are_reported(directory: Path) -> None:
    silent = {name for name in EXPECTED if encoder(name, directory).note}
    assert silent == {"empty", "trl", "hunyuan"}


def test_two_settings_in_one_process_both_count(tmp_path: Path, directory: Path) -> None:
    for content in ("one {{content}}", "two {{content}}"):
        file = tmp_path / "templates.json"
        file.write_text(json.dumps([{"name": "mine", "format_user": {"slots": [content]}}]))
        subject = encoder("mine", directory, file)
        assert text_of(subject.tokenizer, subject.prompt(Prompt(TURNS[:1]))) == content.replace("{{content}}", "Q1")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[{", "invalid JSON"),
        ('{"name": "x"}', "should be a list of objects that have a name"),
        ('[{"name": "x", "format_usr": {"slots": []}}]', "field 'format_usr' is unknown; did you mean format_user"),
        ('[{"name": "x", "format_user": {"slots": [3]}}]', "a slot should be a text"),
        ('[{"name": "x", "format_user": "{{content}}"}]', "a format should be"),
        ('[{"name": "y"}]', "prompt_type 'x' is not in"),
    ],
)
def test_template_files_with_faults_get_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "templates.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        load_template("x", file)


def test_an_unknown_template_gets_its_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean llama3"):
        load_template("lama3")


def test_a_tokenizer_without_the_tokens_of_a_template_is_refused(tmp_path: Path) -> None:
    bare = save_tokenizer(tmp_path)
    with pytest.raises(
        ValueError, match=r"prompt_type qwen ends turns with <\|im_end\|>, which the tokenizer does not"
    ):
        encoder("qwen", bare)
    with pytest.raises(ValueError, match=r"prompt_type chatglm2 needs the tokens \[gMASK\], sop"):
        encoder("chatglm2", bare)


def test_a_stop_word_that_is_not_yet_special_becomes_one_token(tmp_path: Path) -> None:
    directory = save_tokenizer(tmp_path, plain=["<|im_end|>"])
    assert len(load_tokenizer(directory).encode("<|im_end|>", add_special_tokens=False)) > 1
    subject = encoder("qwen", directory)
    assert subject.pair(pair(Prompt(TURNS[:1]))).chosen[1:] == [subject.tokenizer.eos_token_id]
    assert load_tokenizer(directory).eos_token == "</s>"


def test_a_tokenizer_without_start_token_skips_it(tmp_path: Path) -> None:
    subject = encoder("mistral", save_tokenizer(tmp_path, bos=None))
    assert text_of(subject.tokenizer, subject.prompt(Prompt(TURNS[:1]))) == "[INST] Q1 [/INST]"
