"""A trial of a tokenizer in a process with limits of time and memory: it opens the files and renders the template."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

from mindspeed_dpo.untrusted.errors import MalformedDataError

PROBE_CPU_S = 10
"""Limit for the processor time, besides one second for each `_BYTES_PER_S` of the files; seconds are usual."""
PROBE_TIMEOUT_S = 120
"""Limit for the wall time, on a machine that is busy with other programs."""
PROBE_MEMORY_BYTES = 2 << 30
_BYTES_PER_S = 1 << 22
_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from mindspeed_dpo.untrusted.tokenizer_probe import main; main()"
)
_TOO_LONG = "opening the tokenizer and rendering its chat template takes more than"
_SAMPLE = "A sample, 2 lines:\n  Grüße, 你好 <|end|> " + "ab" * 50
_MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": _SAMPLE},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "More."},
]


def run_probe(directory: Path) -> None:
    """Try the tokenizer of a folder in a child process, which is killed after `PROBE_CPU_S` or `PROBE_TIMEOUT_S`.

    Raises:
        MalformedDataError: It cannot be opened, or takes too much time or memory.
    """
    command = [sys.executable, "-c", _PROGRAM, str(_ROOT), str(directory), str(PROBE_CPU_S)]
    try:
        probe = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MalformedDataError(f"{directory}: {_TOO_LONG} {PROBE_TIMEOUT_S} s") from error
    if probe.returncode == -signal.SIGXCPU:
        raise MalformedDataError(f"{directory}: {_TOO_LONG} {PROBE_CPU_S} s of processor time")
    if probe.returncode != 0:
        lines = probe.stderr.decode(errors="replace").strip().splitlines() or [f"it ends with code {probe.returncode}"]
        raise MalformedDataError(f"{directory} contains no tokenizer that can be opened: {lines[-1][:300]}")


def main() -> None:
    """Open the tokenizer of the folder that the command line names, and render its chat templates."""
    folder = Path(sys.argv[2])
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".model") and path.is_file()]
    size = sum(path.stat().st_size for path in files)
    limit = PROBE_MEMORY_BYTES + 16 * min(size, PROBE_MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    cpu_s = int(sys.argv[3]) + size // _BYTES_PER_S
    # At the lower limit the signal tells the reason; at the higher one the process is killed.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _open(folder)
        for template in _templates(folder):
            _render(template)
    except MemoryError:
        sys.exit("it takes too much memory")
    except Exception as error:  # Whatever a library raises for a damaged file becomes the reason of the caller's error.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def _open(folder: Path) -> None:
    if (folder / "tokenizer.json").is_file():
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.decode(tokenizer.encode(_SAMPLE).ids)
    elif (folder / "tokenizer.model").is_file():
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        processor.decode(processor.encode(_SAMPLE))


def _templates(folder: Path) -> list[str]:
    templates = [path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")]
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).is_file():
            stored = json.loads((folder / name).read_text(encoding="utf-8-sig")).get("chat_template") or ""
            templates += [stored] if isinstance(stored, str) else [entry["template"] for entry in stored]
    return templates


def _render(template: str) -> None:
    """Render a template as transformers does. It may refuse the sample; here only time and memory count."""
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    values = {"messages": _MESSAGES, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    try:
        environment.from_string(template).render(
            **values, raise_exception=_refuse, strftime_now=lambda layout: layout, tools=None
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError):
        return


def _refuse(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)
