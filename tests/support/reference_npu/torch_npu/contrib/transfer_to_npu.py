"""`torch.cuda` names the NPU from here on; on the host that is what our redirects do. It also filters warnings."""

import warnings

from mindspeed_dpo.device import cpu

warnings.filterwarnings("once")


def transfer() -> None:
    cpu.install()
