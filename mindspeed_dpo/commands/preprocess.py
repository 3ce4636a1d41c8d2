"""Converts raw preference or prompt files to token files."""

from __future__ import annotations

import io
import logging
import sys

from mindspeed_dpo.config.shipped_files import PROJECT
from mindspeed_dpo.data.preprocessing.cli import SettingsError, parse
from mindspeed_dpo.data.preprocessing.config_keys import KEYS
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.merge import merge
from mindspeed_dpo.data.preprocessing.pipeline import PreprocessResult, preprocess
from mindspeed_dpo.data.tokenization.template_file import template_names
from mindspeed_dpo.data.tokenization.templates import SPECIAL_PROMPT_TYPES
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.logs import log_to_console
from mindspeed_dpo.storage.write_errors import failure_sentence

USAGE = """
{program} --input FILE --handler-name HANDLER --prompt-type TEMPLATE ... (MindSpeed-LLM's flags)
{program} NAME [key=value | --key value ...]   (configs/datasets/NAME.yaml, or a path to a YAML file)
"""


def main(arguments: list[str], program: str = "preprocess_data.py") -> int:
    """Preprocess or merge, print the report and return the exit code.

    Args:
        arguments: Command-line arguments without the program's name.
        program: Its name in messages.

    Returns:
        Exit code: 0 success, 1 the data cannot be used, 2 invalid arguments, 130 interrupted.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage(program) + "\n")
        return 0 if arguments else 2
    if isinstance(sys.stdout, io.TextIOWrapper):  # Names of columns may hold what the terminal or UTF-8 cannot express.
        sys.stdout.reconfigure(errors="backslashreplace")
    for library in ("httpx", "datasets", "transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        with live_status.shown(), log_to_console(timestamps=False):
            parsed = parse(arguments, PROJECT)
            for notice in parsed.notices:
                logging.info("%s", notice)
            result = merge(parsed.settings) if parsed.settings.merge_group_keys else preprocess(parsed.settings)
    except SettingsError as error:
        sys.stderr.write(f"{program} cannot start:\n{error}\n")
        return 2
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{program}: {failure_sentence(error)}\n")
        return 1
    report(result)
    return 0


def usage(program: str) -> str:
    """Return the help text: usage, datasets, handlers, templates and keys."""
    names = sorted(path.stem for path in (PROJECT / "configs" / "datasets").glob("*.yaml"))
    choices = {
        "NAME": names,
        "HANDLER": HANDLERS,
        "TEMPLATE": [*SPECIAL_PROMPT_TYPES, *template_names()],
        "--key": KEYS,
    }
    lines = [f"{word}: {', '.join(values)}" for word, values in choices.items()]
    return "\n\n".join([USAGE.format(program=program).strip(), *lines, "All of these are described in docs/data.md."])


def report(result: PreprocessResult) -> None:
    """Print the row counts and the paths of the written files."""
    lines = [f"not read: {file}" for file in result.skipped_files]
    if result.unread_columns:
        lines.append(f"columns not read: {', '.join(map(str, result.unread_columns))}")
    lines.append(result.row_counts.table())
    lines.append(f"wrote {result.prefix}_packed_*_document.bin/.idx ({', '.join(result.columns)})")
    if result.text_columns:
        lines.append(f"wrote {result.text_columns_path} ({', '.join(result.text_columns)})")
    lines.append(f"train on it with data_path={result.prefix}")
    sys.stdout.write("\n".join(lines) + "\n")
