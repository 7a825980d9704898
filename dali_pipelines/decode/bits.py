"""Bit reader for video headers."""


class Bits:
    """Reads unsigned numbers from the front; past the end, all bits are zero."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)

    def take_exp_golomb(self) -> int:
        """Read an unsigned Exp-Golomb code, ue(v) in H.264."""
        zeros = 0
        while zeros < 32 and self._left > 0 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
