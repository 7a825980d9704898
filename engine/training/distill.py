"""Distillation: a trained model's opinion of each clip is learned beside the clip's label.

B clips, T frames, N classes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.training import checkpoint


class Teacher:
    """Sees the very clips that the student sees, brought into the form that it learned from."""

    def __init__(
        self,
        path: Path,
        student: ClipSpec,
        class_names: list[str],
        *,
        temperature: float,
        weight: float,
    ) -> None:
        found = checkpoint.named_or_best(path)
        if found is None:
            raise UserError(f"--teacher {path} is neither a checkpoint nor a run that has one.")
        self._model, config = checkpoint.load_model(found)
        if config.class_names != class_names:
            raise UserError(f"the teacher {found} knows other classes than these clips have.")
        self._clip = config.clip
        self._student = student
        self._temperature = temperature
        self._weight = weight

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    def blend(self, losses_B: Tensor, logits_BN: Tensor, clips_BTCHW: Tensor) -> Tensor:
        """The student's losses, and in part how far it is from the teacher's softened answer."""
        with torch.no_grad():
            taught_BN = self._model(self._as_learnt(clips_BTCHW)).float()
        soft_BN = (taught_BN / self._temperature).softmax(dim=1)
        log_found_BN = (logits_BN.float() / self._temperature).log_softmax(dim=1)
        distance_B = nn.functional.kl_div(log_found_BN, soft_BN, reduction="none").sum(dim=1)
        share = self._weight
        return (1 - share) * losses_B + share * self._temperature**2 * distance_B

    def _as_learnt(self, clips_BTCHW: Tensor) -> Tensor:
        ours, theirs = self._student, self._clip
        frames = clips_BTCHW.shape[1]
        if theirs.num_frames != frames:
            nearest = torch.linspace(0, frames - 1, theirs.num_frames).round().long()
            clips_BTCHW = clips_BTCHW[:, nearest.to(clips_BTCHW.device)]
        if theirs.crop != ours.crop:
            resized = interpolate(
                clips_BTCHW.flatten(0, 1), (theirs.crop, theirs.crop), mode="bilinear"
            )
            clips_BTCHW = resized.unflatten(0, clips_BTCHW.shape[:2])
        if (theirs.mean, theirs.std) != (ours.mean, ours.std):
            to = [clips_BTCHW.new_tensor(each).view(3, 1, 1) for each in (
                ours.mean, ours.std, theirs.mean, theirs.std)]  # fmt: skip
            clips_BTCHW = (clips_BTCHW * to[1] + to[0] - to[2]) / to[3]
        return clips_BTCHW
