"""The device that the stand-in uses, the host or what a variable of the environment names."""

import os


class _Platform:
    device_name = os.environ.get("STAND_IN_PLATFORM", "cpu")

    def is_cpu(self) -> bool:
        return self.device_name == "cpu"

    def is_sleep_mode_available(self) -> bool:
        return not self.is_cpu()


current_platform = _Platform()
