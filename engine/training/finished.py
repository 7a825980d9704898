"""Reads runs that were trained to their end."""

from pathlib import Path

from dali_pipelines.loaders.loader_config import LoaderReport
from engine.training import checkpoint, history, run_folder
from engine.training.run import Trained
from engine.training.train_state import TrainState


def read_finished(run: Path) -> Trained | None:
    """The result of a finished run; None if there is no run yet, or it can be resumed.

    The report of its files is empty, since no clip is loaded.
    """
    if not (run / run_folder.FACTS).is_file() or (last := checkpoint.last_of(run)) is None:
        return None
    recipe, _ = run_folder.load(run)
    state = TrainState(**checkpoint.load_state(last)["standing"])
    if recipe.probe.is_on:
        _go_on(state, history.read(run))
    if not state.is_at_end(epochs=recipe.loop.epochs, patience=recipe.loop.patience):
        return None
    return Trained(
        path=run,
        recipe=recipe,
        best=checkpoint.best_of(run),
        best_row=next((row for row in state.history if row["step"] == state.best_step), {}),
        history=state.history,
        finished=True,
        report=LoaderReport(),
    )


def _go_on(state: TrainState, rows: list[dict[str, float]]) -> None:
    """Bring the state of a probe, which saves only its best epoch, to the last epoch."""
    if rows:
        state.history = rows
        state.epoch = int(rows[-1]["epoch"])
        state.epochs_without_gain = sum(row["step"] > state.best_step for row in rows)
