"""The check of `engine compile --fast-decode`: clips decoded fast must keep their labels."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from dali_pipelines.spec import FastCodec
from engine.compilation.compile_source import CompileSource
from engine.errors import RefusedError
from trt.config import ArtifactConfig
from trt.parity import Budget, Logits, answers, compare

if TYPE_CHECKING:
    import torch


def admit_fast_decode(
    config: ArtifactConfig,
    source: CompileSource,
    run: "Callable[[torch.Tensor], torch.Tensor]",
    exact_NC: Logits,
    *,
    budget: Budget,
    proved_on: str,
) -> ArtifactConfig:
    """Compare the labels of held-out clips, decoded fast and decoded exactly.

    Only clips whose pixels differ count, and each codec has to keep to the budget by itself. An
    artifact decodes fast only the codecs of these clips.

    Args:
        config: The artifact, whose parity was checked.
        source: The clips.
        run: The compiled model.
        exact_NC: Its logits for the clips decoded exactly.
        budget: Largest accepted differences.
        proved_on: Device that ran the compiled model.

    Returns:
        The config with the admitted codecs in `clip`, and the result for each in `parity`.

    Raises:
        RefusedError: No clip decodes differently, or too many get another label.
    """
    fast_NC, differs_N = _predict_fast(source, run)
    codec_of = {row.id: row.codec for row in source.proof_rows}
    codecs_N = np.array([codec_of[n] for batch in source.proof for n in batch.ids.tolist()])
    found: dict[FastCodec, dict[str, Any]] = {}
    for codec in get_args(FastCodec):
        chosen_N = differs_N & (codecs_N == codec)
        if not chosen_N.any():
            continue
        parity = compare(
            exact_NC[chosen_N],
            fast_NC[chosen_N],
            source.labels[chosen_N],
            budget=budget,
            proved_on=proved_on,
        )
        if not parity.passed:
            raise RefusedError(
                f"no artifact is written: when {codec} videos are decoded fast, "
                f"{parity.in_words('exactly decoded')}. Leave out `fast_decode`, or use "
                "`accept_drift`."
            )
        found[codec] = parity.to_dict()
    if not found:
        raise RefusedError(
            "no artifact is written: none of the held-out clips decodes differently, so fast "
            "decoding can't be checked. It applies to H.264, and to Motion JPEG at least twice as "
            "large as the model's frames. Leave out `fast_decode`."
        )
    return dataclasses.replace(
        config,
        clip={**config.clip, "fast_decode": list(found)},
        parity={**config.parity, "fast_decode": found},
    )


def _predict_fast(
    source: CompileSource, run: "Callable[[torch.Tensor], torch.Tensor]"
) -> tuple[Logits, Any]:
    """Logits of the held-out clips decoded fast, and which clips differ from the exact ones."""
    logits, differs = [], []
    for exact, fast in zip(source.proof, source.proof_decoded_fast(), strict=True):
        if not exact.ids.equal(fast.ids):
            raise RefusedError(
                "no artifact is written: some held-out clips can be read only when they are "
                "decoded exactly. Leave out `fast_decode`."
            )
        logits.append(answers(run, [fast.clips]))
        differs.append((exact.clips != fast.clips).flatten(1).any(dim=1).numpy())
    return np.concatenate(logits), np.concatenate(differs)
