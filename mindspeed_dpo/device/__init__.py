"""The accelerator: start-up order, the face the rest of the code sees, and operators with plain references.

`activate` is the first thing a worker process does; torch_npu and MindSpeed are imported nowhere else.
"""

from mindspeed_dpo.device.accelerator import Accelerator, find_accelerator
from mindspeed_dpo.device.activate import activate

__all__ = ["Accelerator", "activate", "find_accelerator"]
