"""Convert raw preference or prompt files to token files.

python preprocess_data.py --input FILE --handler-name HANDLER --prompt-type TEMPLATE ... (MindSpeed-LLM's flags)
python preprocess_data.py NAME [key=value | --key value ...]   (configs/datasets/NAME.yaml, or a path to a YAML file)
"""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

from mindspeed_dpo.data.preprocessing.cli import SettingsError, parse
from mindspeed_dpo.data.preprocessing.config_keys import KEYS
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.merge import merge
from mindspeed_dpo.data.preprocessing.pipeline import PreprocessResult, preprocess
from mindspeed_dpo.data.tokenization.template_file import template_names
from mindspeed_dpo.data.tokenization.templates import SPECIAL_PROMPT_TYPES

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Preprocess or merge, print the report and return the exit code.

    Codes: 0 success, 1 the data cannot be used, 2 invalid arguments, 130 interrupted.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):  # Names of columns may hold what the terminal or UTF-8 cannot express.
        sys.stdout.reconfigure(errors="backslashreplace")
    for library in ("httpx", "datasets", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        parsed = parse(arguments, ROOT)
        for notice in parsed.notices:
            logging.info("%s", notice)
        result = merge(parsed.settings) if parsed.settings.merge_group_keys else preprocess(parsed.settings)
    except SettingsError as error:
        print(f"preprocess_data.py cannot start:\n{error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"preprocess_data.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("preprocess_data.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    report(result)
    return 0


def usage() -> str:
    """Return the help text: usage, datasets, handlers, templates and keys."""
    names = sorted(path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml"))
    choices = {
        "NAME": names,
        "HANDLER": HANDLERS,
        "TEMPLATE": [*SPECIAL_PROMPT_TYPES, *template_names()],
        "--key": KEYS,
    }
    lines = [f"{word}: {', '.join(values)}" for word, values in choices.items()]
    return "\n\n".join([str(__doc__).strip(), *lines, "All of these are described in docs/data.md."])


def report(result: PreprocessResult) -> None:
    """Print the row counts and the paths of the written files."""
    for file in result.skipped_files:
        print(f"not read: {file}")
    if result.unread_columns:
        print(f"columns not read: {', '.join(map(str, result.unread_columns))}")
    print(result.row_counts.table())
    print(f"wrote {result.prefix}_packed_*_document.bin/.idx ({', '.join(result.columns)})")
    if result.text_columns:
        print(f"wrote {result.text_columns_path} ({', '.join(result.text_columns)})")
    print(f"train on it with data_path={result.prefix}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
