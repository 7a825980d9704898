"""The training loop: steps, validation, checkpoints. What it runs on is Fabric's business.

Everything random is a pure function of (seed, step, rank) or (seed, epoch, clip), so that a run
that was killed and resumed ends with the same bits as one that never was. Shape letters: B clips
of a batch, N classes.
"""

import dataclasses
import gc
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dali_pipelines.errors import Stopped
from dali_pipelines.loaders.loader_config import Batch, ClipLoader, LoaderReport
from engine.errors import RefusedError, UserError
from engine.models.freezing import set_frozen
from engine.models.registry import ModelSpec
from engine.training import checkpoint, history
from engine.training.checkpoint import CheckpointConfig
from engine.training.display import Display
from engine.training.distill import Teacher
from engine.training.losses import Criterion, mix
from engine.training.optim import make_optimizer, make_schedule
from engine.training.recipe import Recipe
from engine.training.train_state import TrainState
from engine.training.validation import validate


class Trainer:
    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        model: nn.Module,
        *,
        spec: ModelSpec,
        class_names: list[str],
        train: ClipLoader,
        val: ClipLoader,
        run: Path,
        display: Display,
        versions: dict[str, str],
        class_weights_N: Tensor | None = None,
        teacher: Teacher | None = None,
        save_every_s: float = 600.0,
    ) -> None:
        self.fabric = fabric
        self.recipe = recipe
        self.spec = spec
        self.class_names = class_names
        self.train = train
        self.val = val
        self.run_folder = run
        self.display = display
        self.versions = versions
        self.save_every_s = save_every_s
        self.standing = TrainState()
        self.stop_asked = False
        self.teacher = teacher
        if teacher:
            teacher.to(fabric.device)
        self.criterion = Criterion(recipe.loss, class_weights_N)
        self.raw = _channels_last(model).to(fabric.device)
        loop = recipe.loop
        self.steps_per_epoch = -(-len(train) // loop.accumulate)
        optimizer = make_optimizer(self.raw, recipe.optim)
        self.schedule = make_schedule(
            optimizer,
            recipe.optim,
            num_steps=self.steps_per_epoch * loop.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.averaged = (
            AveragedModel(self.raw, multi_avg_fn=get_ema_multi_avg_fn(loop.ema), use_buffers=True)
            if loop.ema
            else None
        )
        self._pending: tuple[int, list[Batch], float, Tensor] | None = None
        self._saved_at = time.monotonic()
        self._tensorboard: Any = None
        self._wrapping: tuple[bool, Any] | None = None

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and saved."""
        return self.averaged.module if self.averaged else self.raw

    def run(self) -> bool:
        """Train to the end, and say whether it was reached: somebody may have asked to stop."""
        standing, loop = self.standing, self.recipe.loop
        while standing.epoch < loop.epochs and not self._is_stale():
            try:
                finished = self._train_epoch()
            except Stopped:
                finished = False
            if not finished:
                self._save()
                return False
            self._end_epoch()
        return True

    def resume(self, found: Path) -> None:
        state = checkpoint.load_state(found)
        weights = checkpoint.load_weights(found)
        if self.averaged:
            self.averaged.module.load_state_dict(weights)
            self.averaged.n_averaged.fill_(state["num_averaged"])
        self.raw.load_state_dict(state["raw"] if self.averaged else weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.train.load_state_dict(state["loader"])
        self.standing = TrainState(**state["standing"])
        if self.fabric.is_global_zero:  # it may have died between the checkpoint and these
            if self.standing.best_step == self.standing.step:
                self._mark_best(found)
            history.write(self.run_folder, self.standing.history)

    def stop(self) -> None:
        """After this step, or at once where its clips are still waited for; but several processes
        stop together, which is after a step."""
        self.stop_asked = True
        if self.fabric.world_size == 1:
            self.train.stop()

    def _is_stale(self) -> bool:
        patience = self.recipe.loop.patience
        return bool(patience) and self.standing.epochs_without_gain >= patience

    def _train_epoch(self) -> bool:
        standing = self.standing
        model = self._wrapped(standing.epoch < self.recipe.loop.freeze_epochs)
        done = standing.step - standing.epoch * self.steps_per_epoch
        self.display.begin_epoch(standing.epoch, self.recipe.loop.epochs, self.steps_per_epoch)
        batches = iter(self.train)
        begun = time.monotonic()
        while parts := self._next_parts(batches):
            standing.waited_s += time.monotonic() - begun
            save, stop = self._step(model, parts)
            standing.seconds += time.monotonic() - begun
            begun = time.monotonic()
            done += 1
            self.display.step(done, standing, self.optimizer.param_groups[-1]["lr"])
            if stop:
                return False
            if save:
                self._save()
        self._check_pending()
        return True

    def _next_parts(self, batches: Iterator[Batch]) -> list[Batch]:
        before = self.train.state_dict()
        try:
            return list(islice(batches, self.recipe.loop.accumulate))
        except Stopped:
            self.train.load_state_dict(before)  # a part that it gave already is given again
            raise

    def _wrapped(self, frozen: bool) -> Any:
        """The model as Fabric runs it; anew when other weights learn than before."""
        set_frozen(self.raw.train(), frozen)
        if self._wrapping is None or self._wrapping[0] != frozen:
            self._wrapping = None
            gc.collect()  # the old one's hooks go with it, on all ranks at the same time
            module = torch.compile(self.raw) if self.recipe.loop.compile else self.raw
            self._wrapping = (frozen, self.fabric.setup_module(module))
        return self._wrapping[1]

    def _step(self, model: Any, parts: list[Batch]) -> tuple[bool, bool]:
        """One update of the weights; returns whether all ranks shall save, and stop."""
        standing, loop, fabric = self.standing, self.recipe.loop, self.fabric
        torch.manual_seed(_seed_of(loop.seed, standing.step, fabric.global_rank))
        save_due = time.monotonic() - self._saved_at > self.save_every_s
        flags = [sum(len(part.ids) for part in parts), save_due, self.stop_asked]
        num_clips, save, stop = self._sum(flags)
        if num_clips:
            loss, num_correct = self._backward(model, parts, num_clips)
            self._check_pending()
            self._pending = (standing.step, parts, num_clips, loss)
            if self.recipe.optim.clip_grad:
                fabric.clip_gradients(
                    model,
                    self.optimizer,
                    max_norm=self.recipe.optim.clip_grad,
                    error_if_nonfinite=False,
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
            standing.num_clips += int(num_clips)
            standing.num_correct += num_correct
            if self.averaged:
                self.averaged.update_parameters(self.raw)
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        standing.step += 1
        return save > 0, stop > 0

    def _backward(self, model: Any, parts: list[Batch], num_clips: float) -> tuple[Tensor, float]:
        """Gradients of the mean loss over all parts and ranks; that loss, and how many were right.

        Parts may be of unequal size, or empty on some ranks, and the mean is still exact.
        """
        fabric = self.fabric
        loss_sum = torch.zeros((), device=fabric.device)
        num_correct = torch.zeros((), device=fabric.device)
        for number, part in enumerate(parts, 1):
            clips, labels_B = fabric.to_device((part.clips, part.labels))
            if len(labels_B):
                clips, wanted_BN = mix(self.recipe.loss, clips, labels_B, len(self.class_names))
            else:  # other ranks wait for this one's gradients
                clips = clips.new_zeros((1, *clips.shape[1:]))
                wanted_BN = clips.new_zeros((1, len(self.class_names)))
            with fabric.no_backward_sync(model, enabled=number < len(parts)):
                logits_BN = model(clips)
                losses_B = self.criterion(logits_BN, wanted_BN)
                if self.teacher and len(labels_B):
                    with fabric.autocast():
                        losses_B = self.teacher.blend(losses_B, logits_BN, clips)
                loss = losses_B.sum() * bool(len(labels_B))
                fabric.backward(loss * fabric.world_size / num_clips)
            loss_sum += loss.detach()
            num_correct += (logits_BN.detach().argmax(dim=1)[: len(labels_B)] == labels_B).sum()
        totals = self.fabric.all_reduce(torch.stack([loss_sum, num_correct]), reduce_op="sum")
        return totals[0] / num_clips, totals[1]

    def _check_pending(self) -> None:
        """Look at the loss of the step before: by now it is known, and nobody waits for it."""
        if self._pending is None:
            return
        step, parts, num_clips, loss = self._pending
        self._pending = None
        value = float(loss)
        if not np.isfinite(value):
            self._refuse(f"the loss became {value} at step {step}", parts)
        self.standing.loss_sum += value * num_clips

    def _refuse(self, what: str, parts: list[Batch]) -> None:
        path_of = {row.id: row.path.name for row in self.train.rows}
        names = [path_of[number] for part in parts for number in part.ids.tolist()]
        of_clips = f" (clips {', '.join(names[:8])}{' …' if len(names) > 8 else ''})"
        last = checkpoint.last_of(self.run_folder)
        fix = "lower --lr, or pass --precision fp32"
        again = f"begin anew from {last} with --weights, and {fix}" if last else fix
        raise RefusedError(f"{what}{of_clips if names else ''}: {again}.")

    def _refuse_unreadable(self, purpose: str) -> None:
        reasons = [f" ({path}: {reason})" for path, reason in self.report().failures.items()]
        raise UserError(
            f"none of the clips {purpose} can be read{''.join(reasons[:1])}: repair them, or index "
            "the dataset anew; `engine data check` lists what is wrong."
        )

    def _sum(self, values: list[Any]) -> list[float]:
        """Over all ranks."""
        numbers = torch.tensor([float(value) for value in values])
        if self.fabric.world_size > 1:
            numbers = self.fabric.all_reduce(numbers.to(self.fabric.device), reduce_op="sum")
        return numbers.tolist()

    def _end_epoch(self) -> None:
        standing, loop = self.standing, self.recipe.loop
        if not standing.num_clips:
            self._refuse_unreadable("to learn from")
        self.display.validating()
        self._agree_on_buffers()
        metrics = validate(self.fabric, self.eval_model, self.val, len(self.class_names))
        if not metrics.pop("num_clips"):
            self._save()
            self._refuse_unreadable("to validate on")
        value = -metrics["loss"] if loop.metric == "loss" else metrics[loop.metric]
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(value)
        is_best = value > standing.best_value
        row = {
            "epoch": standing.epoch + 1,
            "step": standing.step,
            "train_loss": standing.loss_sum / max(1, standing.num_clips),
            "train_top1": float(standing.num_correct) / max(1, standing.num_clips),
            **{f"val_{name}": each for name, each in metrics.items()},
            "lr": self.optimizer.param_groups[-1]["lr"],
            "clips_per_s": standing.num_clips / max(1e-9, standing.seconds),
            "waiting_share": standing.waited_s / max(1e-9, standing.seconds),
            "seconds": standing.seconds,
        }
        standing.history.append(row)
        standing.epoch += 1
        standing.epochs_without_gain = 0 if is_best else standing.epochs_without_gain + 1
        if is_best:
            standing.best_value, standing.best_step = value, standing.step
        standing.num_clips, standing.num_correct = 0, 0.0
        standing.loss_sum = standing.seconds = standing.waited_s = 0.0
        self._save(is_best=is_best)
        self.display.end_epoch(row, is_best)
        if self.fabric.is_global_zero:
            if self._tensorboard is None:
                self._tensorboard = history.open_tensorboard(self.run_folder, int(row["step"]))
            history.add_scalars(self._tensorboard, row)

    def _save(self, *, is_best: bool = False) -> None:
        self._check_pending()
        self._saved_at = time.monotonic()
        if not all(bool(torch.isfinite(each).all()) for each in self.raw.parameters()):
            self._refuse(f"a weight is no longer a number after step {self.standing.step}", [])
        failure = None
        if self.fabric.is_global_zero:
            try:
                self._write(is_best)
            except UserError as error:
                failure = error
        if self._sum([failure is not None])[0]:  # the others would wait for the first for ever
            raise failure or UserError("the first process can't save; it says why.")

    def _write(self, is_best: bool) -> None:
        standing = self.standing
        last = standing.history[-1] if standing.history else {}
        config = CheckpointConfig(
            model=self.spec,
            clip=self.recipe.clip,
            class_names=self.class_names,
            step=standing.step,
            metrics={name: each for name, each in last.items() if name.startswith("val_")},
            versions=self.versions,
        )
        standing.num_correct = float(standing.num_correct)
        state: dict[str, Any] = {
            "standing": dataclasses.asdict(standing),
            "loader": self._loader_state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self.averaged:
            state["raw"] = self.raw.state_dict()
            state["num_averaged"] = int(self.averaged.n_averaged)
        path = checkpoint.save(self.run_folder, config, self.eval_model.state_dict(), state)
        if is_best:
            self._mark_best(path)
        history.write(self.run_folder, standing.history)

    def _loader_state(self) -> dict[str, int]:
        state = self.train.state_dict()
        if state["epoch"] > self.standing.epoch:  # its last batches are in the step just made
            state |= {"epoch": self.standing.epoch, "done": len(self.train)}
        return state

    def _agree_on_buffers(self) -> None:
        """What is validated on all ranks is what the first saves."""
        if self.fabric.world_size > 1:
            for model in {self.raw, self.eval_model}:
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def report(self) -> LoaderReport:
        """What all ranks' loaders met on the way."""
        own = LoaderReport()
        own.merge_from(self.train.report)
        own.merge_from(self.val.report)
        found: list[Any] = [own]
        if self.fabric.world_size > 1:
            found = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(found, own)
        whole = LoaderReport()
        for each in found:
            whole.merge_from(each)
        return whole

    def _mark_best(self, path: Path) -> None:
        metric, value = self.recipe.loop.metric, self.standing.best_value
        checkpoint.mark_best(self.run_folder, path, metric, -value if metric == "loss" else value)


def _channels_last(model: nn.Module) -> nn.Module:
    """Convolutions over pictures are faster so, on CPUs and GPUs."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
