"""A model that the server has opened, and its replacement when the folder changes."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.predictor import Predictor, digest_of, find_checkpoint, is_artifact, open_predictor
from engine.serving.http.batcher import Batcher, BatchFacts
from engine.serving.http.settings import ServeSettings
from trt.errors import CompileError

LOG = logging.getLogger("uvicorn.error")


@dataclass(kw_only=True)
class OpenModel:
    """One version of a model."""

    predictor: Predictor
    batcher: Batcher
    digest: str
    num_users: int = 0
    """Requests that use it; an old version is closed after the last one."""


class ServedModel:
    """A model by its name; a request keeps the version that it got at first."""

    def __init__(
        self,
        name: str,
        path: Path,
        settings: ServeSettings,
        num_expected: Callable[[], int],
        on_batch: Callable[[str, BatchFacts], None],
    ) -> None:
        self.name = name
        self.path = path
        self._settings = settings
        self._num_expected = num_expected
        self._on_batch = on_batch
        self._stamp = _stamp(path)
        self._opened = self._open()
        self._lock = threading.Lock()
        self._reload_lock = threading.Lock()

    @property
    def current(self) -> OpenModel:
        """The version of now, to be read only."""
        return self._opened

    @contextmanager
    def in_use(self) -> Iterator[OpenModel]:
        """The version of now, which stays open until the end of the context."""
        with self._lock:
            model = self._opened
            model.num_users += 1
        try:
            yield model
        finally:
            with self._lock:
                model.num_users -= 1
                is_done = model is not self._opened and not model.num_users
            if is_done:
                model.batcher.close()

    def reload_if_changed(self) -> bool | None:
        """Open the model again if its folder has changed.

        The old version stays if the new one can't be opened, and is tried again when the folder
        changes once more.

        Returns:
            True if a new version is used, False if it can't be, None if nothing has changed.
        """
        with self._reload_lock:
            stamp = _stamp(self.path)
            if stamp == self._stamp or stamp is None:
                return None
            self._stamp = stamp
            try:
                opened = self._open()
            except (EngineError, CompileError, OSError) as error:
                LOG.error("%s has changed, but the new model can't be used: %s", self.name, error)
                return False
            with self._lock:
                old, self._opened = self._opened, opened
                is_done = not old.num_users
            LOG.info("%s has changed: the new model %s is used", self.name, opened.digest[:12])
            if is_done:
                old.batcher.close()
            return True

    def close(self) -> None:
        self._opened.batcher.close()

    def _open(self) -> OpenModel:
        predictor = open_predictor(self.path, self._settings.device)
        return OpenModel(
            predictor=predictor,
            batcher=Batcher(
                predictor,
                max_batch=self._settings.max_batch,
                max_wait_s=self._settings.max_wait_ms / 1000,
                num_expected=self._num_expected,
                on_batch=lambda facts: self._on_batch(self.name, facts),
            ),
            digest=digest_of(self.path),
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the model is replaced; None while it is away."""
    try:
        file = path / "config.json" if is_artifact(path) else find_checkpoint(path)[0]
        status = file.stat()
    except (EngineError, OSError):
        return None
    return status.st_ino, status.st_mtime_ns
