"""Knowledge distillation: the student learns from the labels and from a teacher's predictions.

Shape letters: B clips, T frames, N classes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.training import checkpoint


class Teacher:
    """A trained model that predicts the student's clips, converted to its own clip spec.

    Args:
        path: The teacher's run or checkpoint.
        student: Clip spec of the student.
        class_names: The student's classes, which must be the teacher's, too.
        temperature: Divides the logits of both models before the softmax.
        weight: Share of the distillation loss, from 0 to 1.

    Raises:
        UserError: There is no checkpoint at `path`, or it has other classes.
    """

    def __init__(
        self,
        path: Path,
        student: ClipSpec,
        class_names: list[str],
        *,
        temperature: float,
        weight: float,
    ) -> None:
        best = checkpoint.named_or_best(path)
        if best is None:
            raise UserError(f"`teacher` {path} is neither a checkpoint nor a run that has one.")
        self._model, config = checkpoint.load_model(best)
        if config.class_names != class_names:
            raise UserError(f"the teacher {best} has other classes than these clips.")
        self._clip = config.clip
        self._student = student
        self._temperature = temperature
        self._weight = weight

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    def blend(self, losses_B: Tensor, logits_BN: Tensor, clips_BTCHW: Tensor) -> Tensor:
        """Mix the student's losses with the KL divergence from the teacher's softened predictions.

        Args:
            losses_B: Losses of the student with the labels.
            logits_BN: Logits of the student.
            clips_BTCHW: The student's input.

        Returns:
            The mixed loss of each clip.
        """
        with torch.no_grad():
            teacher_BN = self._model(self._convert(clips_BTCHW)).float()
        soft_BN = (teacher_BN / self._temperature).softmax(dim=1)
        log_student_BN = (logits_BN.float() / self._temperature).log_softmax(dim=1)
        divergence_B = nn.functional.kl_div(log_student_BN, soft_BN, reduction="none").sum(dim=1)
        share = self._weight
        return (1 - share) * losses_B + share * self._temperature**2 * divergence_B

    def _convert(self, clips_BTCHW: Tensor) -> Tensor:
        """Convert clips to the frames, size and normalization that the teacher was trained with."""
        student, teacher = self._student, self._clip
        frames = clips_BTCHW.shape[1]
        if teacher.num_frames != frames:
            nearest = torch.linspace(0, frames - 1, teacher.num_frames).round().long()
            clips_BTCHW = clips_BTCHW[:, nearest.to(clips_BTCHW.device)]
        if teacher.crop != student.crop:
            resized = interpolate(
                clips_BTCHW.flatten(0, 1), (teacher.crop, teacher.crop), mode="bilinear"
            )
            clips_BTCHW = resized.unflatten(0, clips_BTCHW.shape[:2])
        if (teacher.mean, teacher.std) != (student.mean, student.std):
            old_mean, old_std, new_mean, new_std = (
                clips_BTCHW.new_tensor(values).view(3, 1, 1)
                for values in (student.mean, student.std, teacher.mean, teacher.std)
            )
            clips_BTCHW = (clips_BTCHW * old_std + old_mean - new_mean) / new_std
        return clips_BTCHW
