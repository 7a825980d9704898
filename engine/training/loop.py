"""The training loop: steps, validation, checkpoints. Fabric handles devices and precision.

All randomness is a pure function of (seed, step, rank) or (seed, epoch, clip). So the weights of a
run that was killed and resumed are bit-identical to those of an uninterrupted run. Shape letters:
B batch, N classes.
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
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dali_pipelines.errors import Stopped
from dali_pipelines.loaders.loader_config import Batch, ClipLoader, LoaderReport
from engine.errors import RefusedError, UserError
from engine.models.freezing import set_frozen
from engine.models.memory_format import channels_last
from engine.models.registry import ModelSpec
from engine.tracking.tracking import Tracking
from engine.training import checkpoint, history
from engine.training.checkpoint import CheckpointConfig
from engine.training.display import Display
from engine.training.distill import Teacher
from engine.training.losses import Criterion, mix
from engine.training.optim import make_optimizer, make_schedule
from engine.training.pending_step import PendingStep
from engine.training.recipe import Recipe
from engine.training.train_state import TrainState
from engine.training.validation import validate


class Trainer:
    """Trains a model by a recipe, and saves checkpoints and the history in the folder `run`."""

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
        tracking: Tracking | None = None,
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
        self.tracking = tracking
        self.state = TrainState()
        self.stop_asked = False  # set by `stop`
        self.teacher = teacher
        if teacher:
            teacher.to(fabric.device)
        self.criterion = Criterion(recipe.loss, class_weights_N)
        self.raw = channels_last(model).to(fabric.device)
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
        self._pending: PendingStep | None = None
        self._saved_at = time.monotonic()
        self._wrapping: tuple[bool, Any] | None = None

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and saved: the moving average, if there is one."""
        return self.averaged.module if self.averaged else self.raw

    def run(self) -> bool:
        """Train to the end; return False if the run was stopped before."""
        state, loop = self.state, self.recipe.loop
        while not state.is_at_end(epochs=loop.epochs, patience=loop.patience):
            try:
                finished = self._train_epoch()
            except Stopped:
                finished = False
            if not finished:
                self._save()
                return False
            self._end_epoch()
        return True

    def resume(self, path: Path) -> None:
        """Restore everything from the checkpoint `path`."""
        saved = checkpoint.load_state(path)
        weights = checkpoint.load_weights(path)
        if self.averaged:
            self.averaged.module.load_state_dict(weights)
            self.averaged.n_averaged.fill_(saved["num_averaged"])
        self.raw.load_state_dict(saved["raw"] if self.averaged else weights)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.fabric.strategy.precision.load_state_dict(saved["precision"])
        self.train.load_state_dict(saved["loader"])
        self.state = TrainState(**saved["standing"])
        if self.fabric.is_global_zero:  # a run may be killed after the checkpoint, before these
            if self.state.best_step == self.state.step:
                self._mark_best(path)
            history.write(self.run_folder, self.state.history)

    def stop(self) -> None:
        """Stop after the current step, or immediately while it waits for clips.

        Several processes always stop after the step, since they have to stop together.
        """
        self.stop_asked = True
        if self.fabric.world_size == 1:
            self.train.stop()

    def _train_epoch(self) -> bool:
        state = self.state
        model = self._wrapped(state.epoch < self.recipe.loop.freeze_epochs)
        done = state.step - state.epoch * self.steps_per_epoch
        self.display.begin_epoch(state.epoch, self.recipe.loop.epochs, self.steps_per_epoch)
        batches = iter(self.train)
        start = time.monotonic()
        while parts := self._next_parts(batches):
            state.waited_s += time.monotonic() - start
            save, stop = self._step(model, parts)
            state.seconds += time.monotonic() - start
            start = time.monotonic()
            done += 1
            self.display.step(done, state, self.optimizer.param_groups[-1]["lr"])
            if stop:
                return False
            if save:
                self._save()
        self._check_pending()
        return True

    def _next_parts(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of one step, over which its gradients are accumulated."""
        before = self.train.state_dict()
        try:
            return list(islice(batches, self.recipe.loop.accumulate))
        except Stopped:
            self.train.load_state_dict(before)  # so that resuming loads these batches again
            raise

    def _wrapped(self, frozen: bool) -> Any:
        """The model set up by Fabric; set up again when layers are frozen or unfrozen."""
        set_frozen(self.raw.train(), frozen, self.recipe.loop.freeze_share)
        if self._wrapping is None or self._wrapping[0] != frozen:
            self._wrapping = None
            gc.collect()  # removes the old wrapper's hooks on all ranks at the same time
            module = torch.compile(self.raw) if self.recipe.loop.compile else self.raw
            self._wrapping = (frozen, self.fabric.setup_module(module))
        return self._wrapping[1]

    def _step(self, model: Any, parts: list[Batch]) -> tuple[bool, bool]:
        """Update the weights once; return whether all ranks have to save, and have to stop."""
        state, loop, fabric = self.state, self.recipe.loop, self.fabric
        torch.manual_seed(_seed_of(loop.seed, state.step, fabric.global_rank))
        save_due = time.monotonic() - self._saved_at > self.save_every_s
        flags = [sum(len(part.ids) for part in parts), save_due, self.stop_asked]
        num_clips, save, stop = self._sum(flags)
        if num_clips:
            totals_2 = self._backward(model, parts, num_clips)
            self._check_pending()
            self._pending = PendingStep(state.step, parts, int(num_clips), totals_2)
            if self.recipe.optim.clip_grad:
                fabric.clip_gradients(
                    model,
                    self.optimizer,
                    max_norm=self.recipe.optim.clip_grad,
                    error_if_nonfinite=False,
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.averaged:
                self.averaged.update_parameters(self.raw)
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        state.step += 1
        return save > 0, stop > 0

    def _backward(self, model: Any, parts: list[Batch], num_clips: float) -> Tensor:
        """Compute gradients of the mean loss over all parts and ranks; return its sum and the hits.

        The mean is exact even if parts have unequal sizes or are empty on some ranks.
        """
        fabric = self.fabric
        loss_sum = torch.zeros((), device=fabric.device)
        num_correct = torch.zeros((), device=fabric.device)
        for number, part in enumerate(parts, 1):
            clips, labels_B = fabric.to_device((part.clips, part.labels))
            if len(labels_B):
                clips, targets_BN = mix(self.recipe.loss, clips, labels_B, len(self.class_names))
            else:  # run a dummy clip, since other ranks wait for this one's gradients
                clips = clips.new_zeros((1, *clips.shape[1:]))
                targets_BN = clips.new_zeros((1, len(self.class_names)))
            with fabric.no_backward_sync(model, enabled=number < len(parts)):
                logits_BN = model(clips)
                losses_B = self.criterion(logits_BN, targets_BN)
                if self.teacher and len(labels_B):
                    with fabric.autocast():
                        losses_B = self.teacher.blend(losses_B, logits_BN, clips)
                loss = losses_B.sum() * bool(len(labels_B))
                fabric.backward(loss * fabric.world_size / num_clips)
            loss_sum += loss.detach()
            num_correct += (logits_BN.detach().argmax(dim=1)[: len(labels_B)] == labels_B).sum()
        return self.fabric.all_reduce(torch.stack([loss_sum, num_correct]), reduce_op="sum")

    def _check_pending(self) -> None:
        """Add the loss of the previous step, which a GPU computed while this one was prepared."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        loss_sum, num_correct = pending.totals()
        if not np.isfinite(loss_sum):
            loss = loss_sum / pending.num_clips
            self._raise_diverged(f"the loss became {loss} at step {pending.step}", pending.parts)
        self.state.loss_sum += loss_sum
        self.state.num_correct += num_correct
        self.state.num_clips += pending.num_clips

    def _raise_diverged(self, problem: str, parts: list[Batch]) -> None:
        path_of = {row.id: row.path.name for row in self.train.rows}
        names = [path_of[number] for part in parts for number in part.ids.tolist()]
        clips = f" (clips {', '.join(names[:8])}{' …' if len(names) > 8 else ''})"
        last = checkpoint.last_of(self.run_folder)
        fix = "lower `lr`, or pass `precision='fp32'`"
        advice = f"start a new run from {last} with `weights`, and {fix}" if last else fix
        raise RefusedError(f"{problem}{clips if names else ''}: {advice}.")

    def _raise_unreadable(self, split: str) -> None:
        reasons = [f" ({path}: {reason})" for path, reason in self.report().failures.items()]
        raise UserError(
            f"none of the {split} clips can be read{''.join(reasons[:1])}: repair them, or index "
            "the dataset again; `engine data check` lists the errors."
        )

    def _sum(self, values: list[Any]) -> list[float]:
        """Sum over all ranks, on the CPU: on GPUs it would wait for all work there."""
        numbers = torch.tensor([float(value) for value in values])
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(numbers)
        return numbers.tolist()

    def _end_epoch(self) -> None:
        state, loop = self.state, self.recipe.loop
        if not state.num_clips:
            self._raise_unreadable("training")
        self.display.validating()
        self._broadcast_buffers()
        metrics = validate(self.fabric, self.eval_model, self.val, len(self.class_names))
        if not metrics.pop("num_clips"):
            self._save()
            self._raise_unreadable("validation")
        value = -metrics["loss"] if loop.metric == "loss" else metrics[loop.metric]
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(value)
        is_best = value > state.best_value
        row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / max(1, state.num_clips),
            "train_top1": float(state.num_correct) / max(1, state.num_clips),
            **{f"val_{name}": metric for name, metric in metrics.items()},
            "lr": self.optimizer.param_groups[-1]["lr"],
            "clips_per_s": state.num_clips / max(1e-9, state.seconds),
            "waiting_share": state.waited_s / max(1e-9, state.seconds),
            "seconds": state.seconds,
        }
        state.history.append(row)
        state.epoch += 1
        state.epochs_without_gain = 0 if is_best else state.epochs_without_gain + 1
        if is_best:
            state.best_value, state.best_step = value, state.step
        state.num_clips, state.num_correct = 0, 0.0
        state.loss_sum = state.seconds = state.waited_s = 0.0
        self._save(is_best=is_best)
        self.display.end_epoch(row, is_best)
        if self.tracking is not None:
            self.tracking.log(state.history)

    def _save(self, *, is_best: bool = False) -> None:
        self._check_pending()
        self._saved_at = time.monotonic()
        if not all(bool(torch.isfinite(weight).all()) for weight in self.raw.parameters()):
            self._raise_diverged(f"a weight became NaN or infinite at step {self.state.step}", [])
        failure = None
        if self.fabric.is_global_zero:
            try:
                self._write(is_best)
            except UserError as error:
                failure = error
        if self._sum([failure is not None])[0]:  # raise on all ranks; they would wait otherwise
            raise failure or UserError("the first process can't save; see its error message.")

    def _write(self, is_best: bool) -> None:
        state = self.state
        last = state.history[-1] if state.history else {}
        config = CheckpointConfig(
            model=self.spec,
            clip=self.recipe.clip,
            class_names=self.class_names,
            step=state.step,
            metrics={name: value for name, value in last.items() if name.startswith("val_")},
            versions=self.versions,
        )
        saved: dict[str, Any] = {
            "standing": dataclasses.asdict(state),
            "loader": self._loader_state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self.averaged:
            saved["raw"] = self.raw.state_dict()
            saved["num_averaged"] = int(self.averaged.n_averaged)
        path = checkpoint.save(self.run_folder, config, self._weights(), saved)
        if is_best:
            self._mark_best(path)
        history.write(self.run_folder, state.history)

    def _weights(self) -> dict[str, Tensor]:
        """Weights of the checkpoint."""
        return self.eval_model.state_dict()

    def _loader_state(self) -> dict[str, int]:
        loader_state = self.train.state_dict()
        # The loader may have started the next epoch with the last batches of this step.
        if loader_state["epoch"] > self.state.epoch:
            loader_state |= {"epoch": self.state.epoch, "done": len(self.train)}
        return loader_state

    def _broadcast_buffers(self) -> None:
        """Make all ranks validate with the buffers that the first rank saves."""
        if self.fabric.world_size > 1:
            for model in {self.raw, self.eval_model}:
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def report(self) -> LoaderReport:
        """Merge the reports of the loaders of all ranks: bad and damaged files."""
        own = LoaderReport()
        own.merge_from(self.train.report)
        own.merge_from(self.val.report)
        reports: list[Any] = [own]
        if self.fabric.world_size > 1:
            reports = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(reports, own)
        merged = LoaderReport()
        for report in reports:
            merged.merge_from(report)
        return merged

    def _mark_best(self, path: Path) -> None:
        metric, value = self.recipe.loop.metric, self.state.best_value
        checkpoint.mark_best(self.run_folder, path, metric, -value if metric == "loss" else value)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
