"""Writes TensorBoard's event files into the run's folder."""

from typing import TYPE_CHECKING

from engine.tracking.tracker import Ending, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
NOT_METRICS = ("epoch", "step")


class TensorBoardTracker(Tracker):
    title = "TensorBoard"
    packages = ("tensorboard",)
    _writer: "SummaryWriter | None" = None

    def add_row(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # Hides what a killed run wrote for this step or later ones.
            self._writer = SummaryWriter(str(self.run / FOLDER), purge_step=step)
        for name, value in row.items():
            if name not in NOT_METRICS:
                self._writer.add_scalar(name.replace("_", "/", 1), value, step)
        self._writer.flush()

    def close(self, ending: Ending | None) -> None:
        if self._writer is not None:
            self._writer.close()
