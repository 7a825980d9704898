"""The progress of a run."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class TrainState:
    """Progress of a run, saved in its checkpoints and shown by the display."""

    step: int = 0
    epoch: int = 0
    best_step: int = -1
    best_value: float = float("-inf")
    """Best value of the metric; a loss is negated, so that larger is better."""
    epochs_without_gain: int = 0
    num_clips: int = 0
    """This and the next four are sums over the current epoch."""
    num_correct: float = 0.0
    loss_sum: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """One row for each completed epoch."""

    def is_at_end(self, *, epochs: int, patience: int) -> bool:
        """Whether all epochs are done, or `patience` of them brought no improvement (0: never)."""
        return self.epoch >= epochs or 0 < patience <= self.epochs_without_gain
