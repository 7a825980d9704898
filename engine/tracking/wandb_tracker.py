"""Sends a run to Weights & Biases, or keeps it in RUN/wandb with WANDB_MODE=offline."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.tracking.tracker import Ending, RunInfo, Tracker, plain

PROJECT = "engine"
LONGEST_TAG = 64
LONGEST_START_S = 30.0
"""Training waits for this; W&B alone would wait 90 seconds for a server that is gone."""
LONGEST_UPLOAD_S = 120.0
"""At the end; what isn't uploaded by then stays in RUN/wandb for `wandb sync`."""


class WandbTracker(Tracker):
    title = "Weights & Biases"
    packages = ("wandb",)
    _run: Any

    def open(self, info: RunInfo | None) -> str:
        import wandb

        self.kept.setdefault("run", secrets.token_hex(4))
        settings = wandb.Settings(
            console="off",  # it would take the output of training, with its live line
            silent=True,
            reinit="create_new",
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", LONGEST_START_S)),
            finish_timeout=LONGEST_UPLOAD_S,
            finish_timeout_raises=True,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=self.kept["run"],
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(self.run),
            settings=settings,
            **({} if info is None else _facts_of(info)),
        )
        if self._run.offline:
            return f"{self._run.settings.sync_dir} (`wandb sync` uploads it)"
        return self._run.url

    def open_group(self, info: RunInfo) -> None:
        self.kept.setdefault("group", f"{plain(info.name)}-{secrets.token_hex(2)}")

    def add_row(self, row: dict[str, float]) -> None:
        self._run.log(row, step=int(row["step"]))

    def add_scores(self, scores: dict[str, float]) -> None:
        self._run.summary.update(scores)

    def add_files(self, name: str, files: Sequence[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{name}-{self.kept['run']}", type=name)
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, ending: Ending | None) -> None:
        self._run.finish(exit_code=1 if ending == "failed" else 0)


def _facts_of(info: RunInfo) -> dict[str, Any]:
    config = {name: _plain_value(value) for name, value in info.settings.items()}
    config |= {"protocol": _plain_value(info.protocol), "versions": info.versions}
    tags = [plain(f"{name} {value}")[:LONGEST_TAG] for name, value in info.versions.items()]
    group = (info.group or {}).get("group")
    return {"name": plain(info.name), "config": config, "tags": tags, "group": group}


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {plain(key): _plain_value(each) for key, each in value.items()}
    return plain(value) if isinstance(value, str | Path) else value
