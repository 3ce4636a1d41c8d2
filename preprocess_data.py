"""Command line of preprocessing: raw preference or prompt files to token files.

python preprocess_data.py --input FILE --handler-name HANDLER --prompt-type TEMPLATE ... (MindSpeed-LLM's flags)
python preprocess_data.py NAME [key=value | --key value ...]   (configs/datasets/NAME.yaml, or a path to a YAML file)
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from mindspeed_dpo.data.preprocessing.cli import SettingsError, parse
from mindspeed_dpo.data.preprocessing.config_keys import KEYS
from mindspeed_dpo.data.preprocessing.handlers import HANDLERS
from mindspeed_dpo.data.preprocessing.merge import merge
from mindspeed_dpo.data.preprocessing.pipeline import Outcome, preprocess
from mindspeed_dpo.data.tokenization.templates import SPECIAL_PROMPT_TYPES, template_names

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run and report; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        parsed = parse(arguments, ROOT)
        for remark in parsed.remarks:
            logging.info("%s", remark)
        outcome = merge(parsed.settings) if parsed.settings.merge_group_keys else preprocess(parsed.settings)
    except SettingsError as error:
        print(f"preprocess_data.py cannot start:\n{error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"preprocess_data.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("preprocess_data.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    report(outcome)
    return 0


def usage() -> str:
    """What can be asked for."""
    names = sorted(path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml"))
    choices = {
        "NAME": names,
        "HANDLER": HANDLERS,
        "TEMPLATE": [*SPECIAL_PROMPT_TYPES, *template_names()],
        "--key": KEYS,
    }
    lines = [f"{word}: {', '.join(values)}" for word, values in choices.items()]
    return "\n\n".join([str(__doc__).strip(), *lines, "docs/data.md explains all of these."])


def report(outcome: Outcome) -> None:
    """Say what became of the rows and where the files lie."""
    for file in outcome.left_out:
        print(f"not read: {file}")
    print(outcome.tally.table())
    print(f"wrote {outcome.prefix}_packed_*_document.bin/.idx ({', '.join(outcome.columns)})")
    if outcome.text_columns:
        print(f"wrote {outcome.prefix}_packed_columns.arrow ({', '.join(outcome.text_columns)})")
    print(f"train on it with data_path={outcome.prefix}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
