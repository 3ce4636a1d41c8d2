"""Imported by the template of the reference NPU's processes: libraries that megatron-core brings.

None is among them that binds functions of torch which the device replaces.
"""

from __future__ import annotations

import importlib

for _name in ("torch", "numpy", "sympy", "wandb", "torch.utils.tensorboard", "mindspeed_dpo.config.load", "psutil"):
    importlib.import_module(_name)
