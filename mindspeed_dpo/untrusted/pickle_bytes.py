"""The bytes of a pickle, read one instruction and argument after the other."""

from __future__ import annotations

import struct
from typing import Any

from mindspeed_dpo.untrusted.pickle_names import PickleError


class PickleBytes:
    """A position in a pickle.

    Attributes:
        position: Number of bytes that have been read.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def instruction(self) -> int:
        """Read the code of the next instruction.

        Raises:
            PickleError: The pickle ends.
        """
        if self.position >= len(self._data):
            raise PickleError("it is truncated: the pickle does not end")
        self.position += 1
        return self._data[self.position - 1]

    def take(self, num_bytes: int) -> bytes:
        """Read so many bytes.

        Raises:
            PickleError: The pickle has fewer.
        """
        start, end = self.position, self.position + num_bytes
        if end > len(self._data):
            raise PickleError("it is truncated: a value extends beyond the end")
        self.position = end
        return self._data[start:end]

    def number(self, layout: struct.Struct) -> Any:
        """Read a number."""
        return layout.unpack(self.take(layout.size))[0]

    def line(self) -> str:
        """Read a line of text.

        Raises:
            PickleError: It does not end within 1000 bytes.
        """
        end = self._data.find(b"\n", self.position, self.position + 1000)
        if end < 0:
            raise PickleError("a name does not end")
        line = self.take(end - self.position)
        self.position += 1
        return self.decoded(line)

    @staticmethod
    def decoded(data: bytes) -> str:
        """Decode a text, in which halves of surrogate pairs are allowed.

        Raises:
            PickleError: It is not UTF-8.
        """
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise PickleError(f"a text is not UTF-8: {error.reason}") from error
