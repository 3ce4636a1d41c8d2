"""Offline and online DPO of large language models on Megatron-core, for Ascend NPUs first."""

import os

__version__ = "0.2.0"

# An installed torch_npu is loaded by `import torch` itself, which then fails where CANN's libraries are missing, even
# for a conversion on the CPU. This package imports it only where it is used.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") or "0"
