"""Where a run stands, as its checkpoints hold it and the display shows it."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class TrainState:
    """Where a run stands; a checkpoint holds it."""

    step: int = 0
    epoch: int = 0
    best_step: int = -1
    best_value: float = float("-inf")
    """Of the metric, turned so that more is better."""
    epochs_without_gain: int = 0
    num_clips: int = 0
    """These four are sums over the epoch so far."""
    num_correct: float = 0.0
    loss_sum: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """A row for each epoch that is done."""
