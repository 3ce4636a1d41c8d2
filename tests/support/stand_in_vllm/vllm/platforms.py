"""The device that the stand-in uses."""


class _Platform:
    device_name = "cpu"

    @staticmethod
    def is_cpu() -> bool:
        return True


current_platform = _Platform()
