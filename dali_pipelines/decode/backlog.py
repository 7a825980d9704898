"""Backlog: notices that a live stream comes faster than it is decoded."""

PATIENCE_S = 3.0
"""How long packets may come without any waiting before it is checked whether time is lost."""
WAITED_S = 0.02
"""A packet that took longer to come was not there yet: everything before it was decoded."""
TOO_SLOW = 0.95
"""Seconds of the stream per second of the clock, below which the decoder is too slow.

A stream that delivers a burst after an interruption is decoded faster than that."""


class Backlog:
    """Decides when to skip packets; call `is_behind` for each."""

    def __init__(self) -> None:
        self._busy_since: tuple[float, float] | None = None
        """Clock and stream time of the last packet that had to be waited for."""
        self._is_behind = False

    def is_behind(self, now: float, waited_s: float, media_s: float | None) -> bool:
        """Whether the packets are to be skipped until one has to be waited for.

        Args:
            now: The time in seconds.
            waited_s: How long the packet was waited for.
            media_s: The packet's time stamp in seconds.
        """
        if waited_s >= WAITED_S or media_s is None:
            self._busy_since, self._is_behind = None, False
            return False
        if self._busy_since is None or media_s < self._busy_since[1]:
            self._busy_since = now, media_s
            return self._is_behind
        busy_s, decoded_s = now - self._busy_since[0], media_s - self._busy_since[1]
        if busy_s > PATIENCE_S and decoded_s < TOO_SLOW * busy_s:
            self._is_behind = True
        return self._is_behind
