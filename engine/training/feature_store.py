"""Keeps features of clips in a folder, so that each view of a clip is computed once.

    FOLDER/KEY/NAME.features   features of one view, with a checksum

KEY is a digest of everything that all features of one encoder depend on: weights, clip spec and
precision. NAME is a digest of the file's path, size and time, and of the view. So features of other
weights, another spec or a changed file are never used. Files are written under a temporary name and
renamed; a damaged one counts as missing.
"""

import hashlib
import io
import os
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from engine.data.file_digest import digest_of_path
from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
CHECKSUM_BYTES = 4
Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureStore:
    """The features of one encoder.

    Args:
        root: Folder of the features of all encoders.
        key: See `key_of`.
    """

    root: Path
    key: str

    def get(self, row: Sample, config: LoaderConfig) -> Features | None:
        """Features of the view that a loader with these settings gives, or None."""
        try:
            content = self._path(row, config).read_bytes()
        except FileNotFoundError:
            return None
        checksum, payload = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        if zlib.crc32(payload).to_bytes(CHECKSUM_BYTES) != checksum:
            return None
        features: Features = np.load(io.BytesIO(payload), allow_pickle=False)
        return features

    def put(self, row: Sample, config: LoaderConfig, features: Features) -> None:
        """Store the features of a view.

        Raises:
            UserError: The folder can't be written to.
        """
        buffer = io.BytesIO()
        np.save(buffer, features, allow_pickle=False)
        payload = buffer.getvalue()
        path = self._path(row, config)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(zlib.crc32(payload).to_bytes(CHECKSUM_BYTES) + payload)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"{self.root} can't keep features ({error.strerror}): name another folder with "
                "`cache`."
            ) from error

    def _path(self, row: Sample, config: LoaderConfig) -> Path:
        facts: list[Any] = [os.path.realpath(row.path), digest_of_path(row.path)]
        facts += [row.frames, row.fps, row.width, row.height]
        if config.augment is not None:  # the view is drawn from these
            facts += [config.augment, config.seed, row.id, row.repeat]
        return self.root / self.key / f"{_digest(facts)}.features"


def key_of(weights: "dict[str, Tensor]", facts: dict[str, Any]) -> str:
    """Digest of an encoder's weights and of other facts that its features depend on."""
    digest = hashlib.sha256(repr((FORMAT, sorted(facts.items()))).encode())
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:32]
