"""Sends a run to MLflow: to the server or database that MLFLOW_TRACKING_URI names."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.tracking.tracker import Ending, RunInfo, Tracker, plain

EXPERIMENT = "engine"
PARENT = "mlflow.parentRunId"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
NUM_PARAMS = 100
"""MLflow takes no more in one request."""
LONGEST_PARAM = 500
DEFAULTS = {
    # Training waits for these requests. MLflow alone would wait minutes for a server that is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables of MLflow, unless the user has set them."""


class MLflowTracker(Tracker):
    title = "MLflow"
    packages = ("mlflow",)
    _client: Any

    def open(self, info: RunInfo | None) -> str:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        with contextlib.redirect_stdout(sys.stderr):  # it may prepare a database, and says so
            return self._open(info)

    def _open(self, info: RunInfo | None) -> str:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or self.kept.get("uri")
        self._client = client = MlflowClient(uri)
        self.kept["uri"] = _without_password(client.tracking_uri)
        if "run" in self.kept:
            experiment = client.get_run(self.kept["run"]).info.experiment_id
            if info is not None:
                client.update_run(self.kept["run"], status="RUNNING")
        else:
            assert info is not None
            experiment = self._experiment()
            tags = {**info.protocol, **{f"version.{k}": v for k, v in info.versions.items()}}
            if info.group is not None and "run" in info.group:
                tags[PARENT] = info.group["run"]
            created = client.create_run(
                experiment,
                run_name=plain(info.name),
                tags={name: plain(value) for name, value in tags.items()},
            )
            self.kept["run"] = created.info.run_id
        if info is not None:
            self._add_params(info.settings)  # again in a resumed run: it may have failed before
        if not self.kept["uri"].startswith("http"):
            return f"{self.kept['uri']}, run {self.kept['run']}"
        return f"{self.kept['uri']}/#/experiments/{experiment}/runs/{self.kept['run']}"

    def open_group(self, info: RunInfo) -> None:
        self.open(info)

    def close_group(self, ending: Ending) -> None:
        self.close(ending)

    def _experiment(self) -> str:
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _add_params(self, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, plain(value)[:LONGEST_PARAM]) for name, value in settings.items()]
        for first in range(0, len(params), NUM_PARAMS):
            self._client.log_batch(self.kept["run"], params=params[first : first + NUM_PARAMS])

    def add_row(self, row: dict[str, float]) -> None:
        self._add_metrics(row, int(row["step"]))

    def add_scores(self, scores: dict[str, float]) -> None:
        self._add_metrics(scores, 0)

    def _add_metrics(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.kept["run"], metrics=metrics)

    def add_files(self, name: str, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self.kept["run"], str(file), artifact_path=name)

    def close(self, ending: Ending | None) -> None:
        if ending is not None:
            self._client.set_terminated(self.kept["run"], status=STATUS[ending])


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri
