"""Events: when the label of a stream changes, instead of every window."""

from dataclasses import dataclass

from engine.watching.watch import StreamPrediction


@dataclass(frozen=True, kw_only=True)
class Event:
    """A label that has begun.

    Attributes:
        label: The label; None if no label has enough confidence any more.
        since_s: Start of the first window with this label.
        prediction: The window after which the label counts.
    """

    label: str | None
    since_s: float
    prediction: StreamPrediction


class EventFilter:
    """Finds the changes of label of one source.

    Args:
        min_confidence: Windows with a lower confidence have no label.
        hold_s: Seconds that a label must last before it counts.
    """

    def __init__(self, *, min_confidence: float = 0.0, hold_s: float = 0.0) -> None:
        self._min_confidence, self._hold_s = min_confidence, hold_s
        self._current: str | None = None
        self._candidate: str | None = None
        self._first: StreamPrediction | None = None
        """First window with the candidate."""

    def add(self, prediction: StreamPrediction) -> Event | None:
        """Add the next window; returns an event if the label counts from now on."""
        is_sure = prediction.confidence >= self._min_confidence
        label = prediction.label if is_sure else None
        first = self._first
        if first is None or label != self._candidate or prediction.part != first.part:
            self._candidate, self._first = label, prediction
            first = prediction
        if label == self._current or prediction.end_s - first.end_s < self._hold_s:
            return None
        self._current = label
        return Event(label=label, since_s=first.start_s, prediction=prediction)
