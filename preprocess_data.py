"""Convert raw preference or prompt files to token files; `--help` lists datasets, handlers, templates and keys.

The same as `mindspeed-dpo preprocess`.
"""

from __future__ import annotations

import sys

from mindspeed_dpo.processes.interruption import end_on_signals

if __name__ == "__main__":
    end_on_signals("preprocess_data.py")

from mindspeed_dpo.commands.preprocess import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
