"""Convert weights between Hugging Face folders and Megatron-core checkpoints; `--help` lists the flags.

The same as `mindspeed-dpo convert`.
"""

from __future__ import annotations

import sys

from mindspeed_dpo.processes.interruption import end_on_signals

if __name__ == "__main__":
    end_on_signals("convert_ckpt.py")

from mindspeed_dpo.commands.convert import FAILURE, USAGE, main

__all__ = ["FAILURE", "USAGE", "main"]

if __name__ == "__main__":
    sys.exit(main())
