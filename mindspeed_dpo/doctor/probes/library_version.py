"""Whether a library loads: asked is `module`, answered its version."""

from __future__ import annotations

import importlib

from mindspeed_dpo.doctor.processes import answer, question

if __name__ == "__main__":
    # By name, in a process that does nothing else: that only `device` imports torch_npu holds for those that work.
    answer(str(getattr(importlib.import_module(question()["module"]), "__version__", "of unknown version")))
