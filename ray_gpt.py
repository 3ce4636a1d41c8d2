"""Train: `python ray_gpt.py --config-name offline_dpo_trainer_tiny training.train_iters=10`.

The same as `mindspeed-dpo train`; `--help` lists the options, docs/configuration.md describes the keys.
"""

from __future__ import annotations

import sys

from mindspeed_dpo.processes.interruption import end_on_signals

if __name__ == "__main__":
    end_on_signals("ray_gpt.py")

from mindspeed_dpo.commands.train import main
from mindspeed_dpo.processes.supervisor import supervise

if __name__ == "__main__":
    sys.exit(supervise(main))
