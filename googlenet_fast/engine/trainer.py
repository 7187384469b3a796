"""The training loop: epochs, evaluation, checkpoints, resume."""

import math
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from googlenet_fast import __version__
from googlenet_fast.engine.build import (
    amp_dtype,
    build_data_loader,
    build_model,
    build_train_step,
    leave_out_bad_images,
    open_data,
)
from googlenet_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from googlenet_fast.engine.config import TrainConfig, config_values, dump_config
from googlenet_fast.engine.curves import plot_curves
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.evaluation import Evaluation, evaluate
from googlenet_fast.engine.kernel_search import is_search_wanted, search
from googlenet_fast.engine.optimizer import set_lr
from googlenet_fast.engine.report import Report, format_time, memory_used
from googlenet_fast.engine.run_folder import RunFolder
from googlenet_fast.engine.run_record import write_environment
from googlenet_fast.engine.schedule import lr_factor
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.stop_signal import StopSignal
from googlenet_fast.errors import UserError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_weights


class Trainer:
    """One process of a training run.

    Building it lists the data, builds the network and, where asked, loads weights or resumes;
    `run` trains, and `close` gives up the output folder. A step is one update of the parameters.

    Raises:
        UserError: data, weights, checkpoint or output folder cannot be used.
    """

    def __init__(self, config: TrainConfig, process: Process) -> None:
        self.config = config
        self.process = process
        self.splits = open_data(config.data)
        self.bad_images: list[str] = []
        """Those left out: path, tab, reason."""
        if config.data.bad_images == "skip":
            self.splits, self.bad_images = leave_out_bad_images(self.splits, config, process)
        self.model = build_model(config, self.splits, process.device)
        normalization = self.model.preset.normalization
        self.train_loader, self.val_loader = (
            build_data_loader(split, config, process, normalization, train=train)
            for split, train in ((self.splits.train, True), (self.splits.val, False))
        )
        self.steps_per_epoch = len(self.train_loader) // config.accumulate
        if self.steps_per_epoch == 0:
            raise UserError(
                f"--accumulate {config.accumulate}: an epoch has only {len(self.train_loader)} "
                "batches; accumulate fewer"
            )
        self.train_step: TrainStep
        self.step = 0
        self.best_top1 = -1.0
        self.stopped_by: signal.Signals | None = None
        self._report: Report | None = None
        with ExitStack() as closing:
            self.folder = self._open_folder()
            if self.folder is not None:
                closing.callback(self.folder.close)
            self._start_from_weights_or_checkpoint()
            if self.folder is not None:
                self.folder.save_config(dump_config(config))
                if config.data.bad_images == "skip":
                    self.folder.save_bad_images(self.bad_images)
                self._report = Report(self.folder, self._total_steps, self.step)
                closing.callback(self._report.close)
            self.close = closing.pop_all().close
        self._first_step = self.step
        self._started = time.perf_counter()
        self._train_seconds = 0.0

    def run(self) -> dict[str, Any] | None:
        """Train to the last epoch and return the result.

        Returns:
            What the RESULT line shows, or None where a signal, then in `stopped_by`, stopped the
            run; its state is in the last checkpoint.
        """
        self._say(self._description())
        if self.folder is not None:
            write_environment(self.folder.path, self.process)
        self._search_kernels()
        evaluation = None
        with StopSignal(self.process.world_size) as stop:
            while self.step < self._total_steps:
                if not self.train_epoch(stop):
                    self._save(best=False)
                    self.stopped_by = stop.signal or signal.SIGTERM
                    return None
                evaluation = self._finish_epoch()
        return self._result(evaluation or self._evaluate())

    def _search_kernels(self) -> None:
        config, device = self.config, self.process.device
        if is_search_wanted(config.exhaustive_search, self._total_steps, device):
            data, amp = config.data, amp_dtype(config.amp, device)
            for line in search(self.model, data.batch_size, data.image_size, amp, self.process):
                self._say(line)

    @property
    def _total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    @property
    def _epoch(self) -> float:
        """Epochs trained so far, with their fraction."""
        return self.step / self.steps_per_epoch

    # Training

    def train_epoch(self, stop: StopSignal) -> bool:
        """Train from the current step to the end of its epoch; False if a signal stopped it."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        self.train_loader.set_epoch(epoch, first * self.config.accumulate)
        batches = iter(self.train_loader)
        window = _Window()
        for _ in range(first, self.steps_per_epoch):
            if stop.poll():
                return False
            self._prepare_step()
            for micro in range(self.config.accumulate):
                asked = time.perf_counter()
                images, labels = next(batches)
                window.waited += time.perf_counter() - asked
                self.train_step(images, labels, update=micro == self.config.accumulate - 1)
            self.step += 1
            if self.step % self.config.log_interval == 0 or self.step % self.steps_per_epoch == 0:
                self._log(window)
                window = _Window()
        return True

    def _prepare_step(self) -> None:
        """Set what depends on the step alone, so that a resumed run needs no random state."""
        entropy = (self.config.seed, self.step, self.process.rank)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        # torch.manual_seed would seed every backend, and record a stack trace for those not in use.
        torch.default_generator.manual_seed(seed)
        if self.process.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        set_lr(self.train_step.optimizer, self._lr)

    @property
    def _lr(self) -> float:
        lr = self.config.optimizer.lr
        return lr * lr_factor(self.config.schedule, lr, self._epoch, self.config.epochs)

    def _log(self, window: "_Window") -> None:
        """Take the sums off the device and report them: the only wait for the device."""
        totals = self.process.sum(self.train_step.totals)
        loss_sum, correct, images = totals.tolist()
        totals.zero_()
        seconds = time.perf_counter() - window.started
        self._train_seconds += seconds
        loss = loss_sum / images
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.step}; lower --optimizer.lr or use --amp bf16 "
                "(the last checkpoint is from before)"
            )
        if self._report is None:
            return
        values = {
            "epoch": self._epoch,
            "loss": loss,
            "top1": 100 * correct / images,
            "lr": self.train_step.optimizer.param_groups[0]["lr"],
            "images_per_second": images / seconds,
            "data_share": window.waited / seconds,
        }
        elapsed = time.perf_counter() - self._started
        done = self.step - self._first_step
        eta = format_time(elapsed / done * (self._total_steps - self.step))
        in_epoch = (self.step - 1) % self.steps_per_epoch + 1
        self._report.log(
            "train",
            self.step,
            values,
            f"epoch {math.ceil(self._epoch)}/{self.config.epochs} "
            f"step {in_epoch}/{self.steps_per_epoch} loss {loss:.4f} top1 {values['top1']:.1f} "
            f"img/s {values['images_per_second']:,.1f} (data {values['data_share']:.1%}) "
            f"lr {values['lr']:.2e}{memory_used(self.process.device)} eta {eta}",
        )

    # Evaluation and checkpoints

    def _finish_epoch(self) -> Evaluation | None:
        """Evaluate if it is time to, and save."""
        epoch = self.step // self.steps_per_epoch
        if epoch % self.config.eval_interval and epoch < self.config.epochs:
            self._save(best=False)
            return None
        evaluation = self._evaluate()
        best = evaluation.top1 > self.best_top1
        self.best_top1 = max(self.best_top1, evaluation.top1)
        self._save(best=best)
        if self._report is not None:
            values = {
                "epoch": self._epoch,
                "loss": evaluation.loss,
                "top1": evaluation.top1,
                "top5": evaluation.top5,
            }
            self._report.log(
                "val",
                self.step,
                values,
                f"epoch {epoch}/{self.config.epochs} validation: loss {evaluation.loss:.4f} "
                f"top1 {evaluation.top1:.2f} top5 {evaluation.top5:.2f} "
                f"(best top1 {self.best_top1:.2f}, {evaluation.images} images)",
            )
        return evaluation

    def _evaluate(self) -> Evaluation:
        ema = self.train_step.ema
        model = self.model if ema is None else ema.module
        for buffer in model.buffers():
            self.process.broadcast_tensor(buffer)
        return evaluate(
            model,
            self.val_loader,
            self.process,
            self.model.num_classes,
            amp_dtype(self.config.amp, self.process.device),
        )

    def _save(self, *, best: bool) -> None:
        if self.folder is None:
            return
        step = self.train_step
        state = {
            "version": __version__,
            "meta": self._meta(),
            "config": config_values(self.config),
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "best_top1": self.best_top1,
            "model": self.model.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "scaler": step.scaler.state_dict(),
        }
        if step.ema is not None:
            state["ema"] = step.ema.module.state_dict()
            state["ema_updates"] = step.ema.n_averaged
        save_checkpoint(self.folder.last, state, *([self.folder.best] if best else []))

    def _meta(self) -> dict[str, Any]:
        """What it takes to rebuild the network and to feed it."""
        options, data = self.config.model, self.config.data
        return {
            "preset": options.preset,
            "num_classes": self.model.num_classes,
            "aux": options.aux,
            "lrn": options.lrn,
            "dropout": options.dropout,
            "transform_input": self.model.transform_input,
            "image_size": data.image_size,
            "resize_size": data.resize_size,
            "class_names": list(self.splits.train.class_names),
        }

    def _open_folder(self) -> RunFolder | None:
        """The run's folder, in the main process alone."""
        if not self.process.is_main:
            return None
        path, resume = self.config.output, self.config.resume
        if path is None and resume not in (None, "auto"):
            path = Path(resume).parent
        folder = RunFolder(path, resuming=resume is not None)
        self.config.output = folder.path
        return folder

    def _start_from_weights_or_checkpoint(self) -> None:
        checkpoint = self._find_checkpoint()
        if self.config.model.weights is not None and checkpoint is None:
            self._say(str(load_weights(self.model, self.config.model.weights)))
        self.train_step = build_train_step(self.config, self.model, self.process)
        if checkpoint is not None:
            self._resume(*checkpoint)

    def _find_checkpoint(self) -> tuple[str, dict[str, Any]] | None:
        """The checkpoint to resume from and its path, read once and sent to every process."""
        found = None
        if self.folder is not None and self.config.resume is not None:
            auto = self.config.resume == "auto"
            path = self.folder.last if auto else Path(self.config.resume)
            if path.exists() or not auto:
                found = str(path), load_checkpoint(path)
        return self.process.broadcast(found)

    def _resume(self, path: str, state: dict[str, Any]) -> None:
        for key, value in self._meta().items():
            if key in ("preset", "num_classes", "aux", "lrn") and state["meta"][key] != value:
                raise UserError(
                    f"--resume {path}: that run has {key} {state['meta'][key]}, this one {value}; "
                    f"set --model.{key} {state['meta'][key]}, or start anew with --model.weights"
                )
        step = self.train_step
        self.model.load_state_dict(state["model"])
        self.model.transform_input = state["meta"]["transform_input"]
        hyperparameters = [
            {key: value for key, value in group.items() if key != "params"}
            for group in step.optimizer.param_groups
        ]
        step.optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(step.optimizer.param_groups, hyperparameters, strict=True):
            group.update(values)  # this run's configuration wins over the saved one
        step.scaler.load_state_dict(state["scaler"])
        if step.ema is not None and "ema" in state:
            step.ema.module.load_state_dict(state["ema"])
            assert isinstance(step.ema.module, GoogLeNet)
            step.ema.module.transform_input = self.model.transform_input
            step.ema.n_averaged.copy_(state["ema_updates"])
        self.step = state["step"] * self.steps_per_epoch // state["steps_per_epoch"]
        self.best_top1 = state["best_top1"]
        if self.folder is not None:
            self.folder.forget_metrics_after(self.step)
        self._say(f"resumed {path} at epoch {self._epoch:.2f}, step {self.step}")

    # Telling

    def _say(self, line: str) -> None:
        if self.process.is_main:
            print(line, flush=True)

    def _description(self) -> str:
        config, process = self.config, self.process
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        precision = amp_dtype(config.amp, process.device) or torch.float32
        own = config.data.path or config.data.train_list
        data = "data" if own else "no --data given: the embedded handwritten digits,"
        return (
            f"GoogLeNet preset {config.model.preset} ({parameters:.1f} M parameters, "
            f"aux heads {'on' if config.model.aux else 'off'}), {self.model.num_classes} classes\n"
            f"{data} {self.splits.train.source}: {len(self.splits.train)} training and "
            f"{len(self.splits.val)} validation images at {config.data.image_size} px\n"
            f"{self._left_out()}{self.train_loader.description}\n"
            f"{config.epochs} epochs of {self.steps_per_epoch} steps, batch "
            f"{config.data.batch_size} x {config.accumulate} x {process.world_size} processes on "
            f"{process.device.type} in {str(precision).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} threads\n"
            f"output {config.output}"
        )

    def _left_out(self) -> str:
        if not self.bad_images:
            return ""
        listed = (
            "" if self.folder is None else f": {self.folder.path / 'bad_images.txt'} lists them"
        )
        return f"{len(self.bad_images)} images cannot be read and are left out{listed}\n"

    def _result(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """The curves and the numbers of a finished run, in the main process."""
        images = (self.step - self._first_step) * self.config.accumulate
        images *= self.config.data.batch_size * self.process.world_size
        if self.folder is not None:
            plot_curves(self.folder.metrics, self.folder.path / "curves.png")
        return {
            "top1": round(evaluation.top1, 3),
            "top5": round(evaluation.top5, 3),
            "loss": round(evaluation.loss, 5),
            "best_top1": round(self.best_top1, 3),
            "epochs": self.config.epochs,
            "steps": self.step,
            "images_per_second": round(images / self._train_seconds, 1) if images else None,
            "seconds": round(time.perf_counter() - self._started, 1),
            "preset": self.config.model.preset,
            "num_classes": self.model.num_classes,
            "world_size": self.process.world_size,
            "bad_images": len(self.bad_images),
            "output": str(self.config.output),
        }


class _Window:
    """What is measured between two log lines."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        """Seconds spent waiting for images."""
