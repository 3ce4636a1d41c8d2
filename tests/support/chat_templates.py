"""Chat templates that write dialogues as those of published models do, in words of our own.

Jinja's `generation` blocks, which change no rendered text, mark what the model writes, so that transformers' masks are
an independent reference.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelTemplate:
    """A chat template with its tokens.

    Attributes:
        text: Jinja text.
        special: Special tokens of the tokenizer.
        end: What ends a message of the assistant, "" where the template writes nothing.
        before: What the template writes of a response before its text.
        bos: Start token.
        eos: End token.
        tools: Whether it renders tools.
    """

    text: str
    special: tuple[str, ...]
    end: str
    before: str = ""
    bos: str | None = None
    eos: str = "</s>"
    tools: bool = False


_IM = ("<|im_start|>", "<|im_end|>")
_CHATML_TURNS = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_HERMES_SYSTEM = """
{%- if tools %}
{{- '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- '# Tools\\n<tools>' }}{% for t in tools %}{{ '\\n' + (t | tojson) }}{% endfor %}{{ '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}"""
_HERMES_CALLS = """
{%- for call in m.tool_calls or [] %}
{{- '\\n' if content or not loop.first else '' }}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}"""
_HERMES_RESULT = """
{%- if loop.previtem is not defined or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}"""
_QWEN25 = f"""
{{%- if not tools and messages[0].role != 'system' %}}
{{{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}}}
{{%- endif %}}{_HERMES_SYSTEM}
{{%- for m in messages %}}
{{%- set content = m.content or '' %}}
{{%- if m.role == 'assistant' %}}
{{{{- '<|im_start|>assistant\\n' }}}}{{% generation %}}{{{{ content }}}}{_HERMES_CALLS}{{{{ '<|im_end|>' }}}}
{{%- endgeneration %}}{{{{ '\\n' }}}}
{{%- elif m.role == 'tool' %}}{_HERMES_RESULT}
{{%- elif m.role != 'system' %}}
{{{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}}}
{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}"""
# Thoughts before the last question are left out, and an empty one is written into the last message only.
_QWEN3 = f"""{_HERMES_SYSTEM}
{{%- set ns = namespace(query=-1) %}}
{{%- for m in messages %}}{{% if m.role == 'user' %}}{{% set ns.query = loop.index0 %}}{{% endif %}}{{% endfor %}}
{{%- for m in messages %}}
{{%- set content = m.content or '' %}}
{{%- if m.role == 'assistant' %}}
{{%- set thought = m.reasoning_content or '' %}}
{{%- if '</think>' in content %}}
{{%- set thought = content.split('</think>')[0].split('<think>')[-1] %}}
{{%- set content = content.split('</think>')[-1].lstrip('\\n') %}}
{{%- endif %}}
{{{{- '<|im_start|>assistant\\n' }}}}{{% generation %}}
{{%- if loop.index0 > ns.query and (loop.last or thought) %}}
{{{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}}}
{{%- endif %}}
{{{{- content }}}}{_HERMES_CALLS}{{{{ '<|im_end|>' }}}}{{% endgeneration %}}{{{{ '\\n' }}}}
{{%- elif m.role == 'tool' %}}{_HERMES_RESULT}
{{%- elif m.role == 'user' %}}
{{{{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}}}
{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
{{{{- '<|im_start|>assistant\\n' }}}}
{{%- if enable_thinking is defined and enable_thinking is false %}}{{{{ '<think>\\n\\n</think>\\n\\n' }}}}{{% endif %}}
{{%- endif %}}"""
_LLAMA3 = """{{- bos_token }}
{%- if tools %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' + (tools | tojson) + '<|eot_id|>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% generation %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}' }}
{%- else %}{{ m.content | trim }}{% endif %}{{ '<|eot_id|>' }}{% endgeneration %}
{%- else %}
{{- '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end_header_id|>\\n\\n' }}
{{- m.content | trim }}{{ '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
# Tools stand before the last question, so a prompt changes once another question follows.
_MISTRAL = """{{- bos_token }}
{%- set ns = namespace(query=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and loop.index0 == ns.query %}
{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{{- '[INST] ' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + m.content + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- elif m.role == 'assistant' %}
{%- generation %}
{%- if m.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in m.tool_calls %}
{%- if call.id is not defined or call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
{%- endfor %}{{ ']' }}
{%- else %}{{ ' ' + m.content }}{% endif %}{{ eos_token }}{% endgeneration %}
{%- else %}{{ raise_exception('no system text') }}
{%- endif %}
{%- endfor %}"""
_GEMMA = """{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<start_of_turn>model\\n' }}{% generation %}{{ m.content | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}
{%- elif m.role == 'user' %}
{{- '<start_of_turn>user\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- else %}{{ raise_exception('only user and model') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
_GLM4 = """{{- '[gMASK]<sop>' }}
{%- for m in messages %}
{{- '<|' + m.role + '|>' }}
{%- if m.role == 'assistant' %}{% generation %}{{ '\\n' + m.content }}{% endgeneration %}
{%- else %}{{ '\\n' + m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
_DEEPSEEK2 = """{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- 'Assistant:' }}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}
{%- elif m.role == 'user' %}{{ 'User: ' + m.content + '\\n\\n' }}
{%- else %}{{ m.content + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""
# Calls are written only without a content, and their arguments must be text.
_DEEPSEEK3 = """{{- bos_token }}
{%- if tools %}{{ 'Tools: ' + (tools | tojson) }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'tool' %}{{ '<｜tool▁outputs▁begin｜>' + m.content + '<｜tool▁outputs▁end｜>' }}
{%- elif m.role == 'assistant' %}{{ '<｜Assistant｜>' }}{% generation %}
{%- if m.tool_calls and not m.content %}
{%- for call in m.tool_calls %}
{{- '<｜tool▁call▁begin｜>' + call.function.name + '\\n' + call.function.arguments + '<｜tool▁call▁end｜>' }}
{%- endfor %}
{%- else %}{{ m.content }}{% endif %}{{ eos_token }}{% endgeneration %}
{%- else %}{{ m.content }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"""
_PHI3 = """
{%- for m in messages %}
{{- '<|' + m.role + '|>\\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}
{%- else %}{{ m.content + '<|end|>' }}{% endif %}{{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
_PHI4 = """
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '<|im_sep|>' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ m.content + '<|im_end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
_BAICHUAN2 = """
{%- for m in messages %}
{%- if m.role == 'assistant' %}{{ '<reserved_107>' }}{% generation %}{{ m.content }}{% endgeneration %}
{%- elif m.role == 'user' %}{{ '<reserved_106>' + m.content }}
{%- else %}{{ m.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<reserved_107>' }}{% endif %}"""
_MINICPM = """
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<用户>' + m.content.strip() + '<AI>' }}
{%- else %}{% generation %}{{ m.content.strip() }}{% endgeneration %}{% endif %}
{%- endfor %}"""
_LLAMA2 = """
{%- for m in messages %}
{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}
{%- else %}{% generation %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endgeneration %}{% endif %}
{%- endfor %}"""

_EOT = "<|eot_id|>"
_DEEPSEEK_EOS = "<｜end▁of▁sentence｜>"
TEMPLATES: dict[str, ModelTemplate] = {
    "qwen2_5": ModelTemplate(_QWEN25, _IM, "<|im_end|>", eos="<|im_end|>", tools=True),
    "qwen3": ModelTemplate(_QWEN3, (*_IM, "<think>", "</think>"), "<|im_end|>", eos="<|im_end|>", tools=True),
    "llama3": ModelTemplate(
        _LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", _EOT), _EOT, bos="<s>", eos=_EOT, tools=True
    ),
    "llama2": ModelTemplate(_LLAMA2, (), " </s>", before=" ", bos="<s>"),
    "mistral": ModelTemplate(
        _MISTRAL, ("[INST]", "[/INST]", "[TOOL_CALLS]"), "</s>", before=" ", bos="<s>", tools=True
    ),
    "gemma": ModelTemplate(_GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", bos="<bos>", eos="<eos>"),
    "glm4": ModelTemplate(
        _GLM4, ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"), "", before="\n", eos="<|endoftext|>"
    ),
    "deepseek2": ModelTemplate(_DEEPSEEK2, (), _DEEPSEEK_EOS, before=" ", bos="<s>", eos=_DEEPSEEK_EOS),
    "deepseek3": ModelTemplate(
        _DEEPSEEK3, ("<｜User｜>", "<｜Assistant｜>"), _DEEPSEEK_EOS, bos="<s>", eos=_DEEPSEEK_EOS, tools=True
    ),
    "internlm2": ModelTemplate("{{- bos_token }}" + _CHATML_TURNS, _IM, "<|im_end|>", bos="<s>"),
    "yi": ModelTemplate(_CHATML_TURNS, _IM, "<|im_end|>", eos="<|im_end|>"),
    "phi3": ModelTemplate(
        _PHI3, ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|end|>", eos="<|endoftext|>"
    ),
    "phi4": ModelTemplate(_PHI4, (*_IM, "<|im_sep|>"), "<|im_end|>", eos="<|im_end|>"),
    "baichuan2": ModelTemplate(_BAICHUAN2, ("<reserved_106>", "<reserved_107>"), ""),
    "minicpm": ModelTemplate(_MINICPM, (), "", bos="<s>"),
}
