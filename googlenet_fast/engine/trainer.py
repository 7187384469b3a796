"""The training loop: epochs, evaluation, checkpoints, resume."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from googlenet_fast import __version__
from googlenet_fast.capture import capturer_for
from googlenet_fast.data import Splits, build_loader
from googlenet_fast.data.identity import digest
from googlenet_fast.engine.build import (
    build_model,
    build_train_step,
    evaluation_preprocessing,
    loader_options,
    open_data,
    with_resize,
)
from googlenet_fast.engine.candidates import Switch
from googlenet_fast.engine.checkpoint import load_checkpoint
from googlenet_fast.engine.choosing import Chosen, choose_for_run, compares_steps
from googlenet_fast.engine.config import TrainConfig, config_values, dump_config
from googlenet_fast.engine.curves import plot_curves
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.evaluation import Evaluation, evaluate
from googlenet_fast.engine.held_out import HeldOut
from googlenet_fast.engine.metrics_logger import MetricsLogger, format_time, memory_used
from googlenet_fast.engine.optimizer import load_momentum, optimizer_state, set_lr
from googlenet_fast.engine.resuming import (
    changed_images,
    check_same_classes,
    check_same_network,
)
from googlenet_fast.engine.run_folder import RunFolder
from googlenet_fast.engine.run_record import write_environment
from googlenet_fast.engine.schedule import learning_rate
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.stop_signal import Stopped, StopSignal
from googlenet_fast.engine.unreadable_images import drop_unreadable, save_unreadable
from googlenet_fast.errors import GoogLeNetError, printable
from googlenet_fast.extras import missing
from googlenet_fast.model.calls import calls_of
from googlenet_fast.model.frozen import freeze
from googlenet_fast.model.graphed import GraphedNetwork
from googlenet_fast.model.precision import amp_dtype
from googlenet_fast.model.weights import load_weights
from googlenet_fast.selfcheck.autotune import is_search_wanted, search

OPTIONAL_FILES = {"tensorboard": "TensorBoard file", "matplotlib": "curves.png"}
"""Package -> the file of a run that needs it."""
STEPS_PER_AVERAGE = 5
"""A run of fewer steps than this times those that the average spans gets a note."""


class Trainer:
    """One process of a training run.

    The constructor lists the data, builds the network and loads weights or a checkpoint. `run`
    trains, `close` releases the output folder. A step is one update of the parameters.

    Progress is `epoch` and `images_seen` in that epoch, summed over ranks, so it does not depend on
    world size or batch size.

    Raises:
        GoogLeNetError: data, weights, checkpoint or output folder cannot be used; no GPU to capture
            on.
    """

    def __init__(self, config: TrainConfig, process: Process) -> None:
        self.config = config = with_resize(config)
        self.process = process
        self._capturer = capturer_for(config.graph, process.device)
        self.splits = self._open_data()
        self._held_out = HeldOut.of(self.splits) if process.is_main else None
        self.bad_images: list[str] = []
        """A line "path<tab>reason" for each image that was dropped."""
        options = [loader_options(config, process, train=train) for train in (True, False)]
        if config.data.bad_images == "skip":
            kept = list(map(drop_unreadable, self.splits, repeat(process), options))
            self.splits = Splits(*(split for split, _ in kept))
            self.bad_images = [line for _, lines in kept for line in lines]
        self.model = build_model(config, self.splits, process.device)
        self.train_loader, self.val_loader = map(build_loader, self.splits, options)
        self.steps_per_epoch = len(self.train_loader) // config.accumulate
        if self.steps_per_epoch == 0:
            raise GoogLeNetError(
                f"--accumulate {config.accumulate}: an epoch has only {len(self.train_loader)} "
                "batches; accumulate fewer"
            )
        self._images_digest = digest(self.splits.train)
        self.train_step: TrainStep
        self._chosen: Chosen | None = None
        """None: nothing was compared; this package's ops compute, compiled if --compile is set."""
        self.epoch, self.images_seen = 0, 0
        self.step = 0
        self.nonfinite_steps = 0
        self.best_top1 = -1.0
        self.stopped_by: signal.Signals | None = None
        self._logger: MetricsLogger | None = None
        with ExitStack() as cleanup:
            if self._capturer is not None:
                cleanup.callback(self._capturer.close)
            self.folder = self._open_folder()
            if self.folder is not None:
                cleanup.callback(self.folder.close)
            self._start_from_weights_or_checkpoint()
            self._total_steps = self.step
            if self.epoch < config.epochs:
                later_epochs = config.epochs - self.epoch - 1
                self._total_steps += self._steps_left_in_epoch + later_epochs * self.steps_per_epoch
            if self.folder is not None:
                self.folder.begin(dump_config(self.config))
                if config.data.bad_images == "skip":
                    save_unreadable(self.bad_images, self.folder.path)
                self._logger = MetricsLogger(self.folder, self._total_steps, self.step)
                cleanup.callback(self._logger.close)
            self.close = cleanup.pop_all().close
        self._first_step = self.step
        self._started = time.perf_counter()
        self._train_seconds, self._train_images = 0.0, 0

    def _open_data(self) -> Splits:
        """Open the images; those that a resumed run held out for validation stay held out."""
        splits = open_data(self.config.data)
        if splits.val.whole is None:
            return splits
        held_out = self.process.broadcast(self._held_out_before() if self.process.is_main else None)
        before = None if held_out is None else held_out.split(splits.val.whole)
        if before is None or not (len(before.splits.train) and len(before.splits.val)):
            return splits
        if before.note is not None:
            self._log(f"{before.note}; new images are for training")
        return before.splits

    def _held_out_before(self) -> HeldOut | None:
        """Return what the run to resume held out, if there is one that did."""
        resume, folder = self.config.resume, self.config.output
        files = [] if resume in (None, "auto") else [Path(resume)]
        if resume == "auto" and folder is not None:
            files = [folder / name for name in ("last.pt", "previous.pt", "best.pt")]
        for file in files:
            with suppress(LookupError):
                return HeldOut.read(file)
        return None

    def run(self) -> dict[str, Any] | None:
        """Train to the last epoch.

        Returns:
            The values of the RESULT line. None if a signal stopped the run; then `stopped_by` is
            the signal and the last checkpoint has the run's state.
        """
        try:
            return self._run()
        except (OSError, GoogLeNetError):
            if self.folder is None or self.folder.path.is_dir():
                raise
        raise GoogLeNetError(f"{self.folder.path}: was deleted while the run was training in it")

    def _run(self) -> dict[str, Any] | None:
        self._log(self._description())
        self._note_a_long_average()
        self._note_files_left_out()
        if self.folder is not None:
            write_environment(self.folder.path, self.process)
        self._autotune()
        evaluation = None
        with StopSignal(self.process.world_size, self.config.timeout) as stop:
            while self.epoch < self.config.epochs:
                try:
                    if not self.train_epoch(stop):
                        raise Stopped
                    evaluation = self._finish_epoch(stop)
                except Stopped:
                    self._save(best=False)
                    self.stopped_by = stop.signal or signal.SIGTERM
                    return None
        if evaluation is None:  # the run had ended before
            evaluation = self._evaluate()
            if self.best_top1 < 0:
                self.best_top1 = evaluation.top1
                self._save(best=True)
        return self._result(evaluation)

    def _note_a_long_average(self) -> None:
        """Say if the average of the weights is of more steps than suit the run."""
        decay, steps = self.config.ema_decay, self._total_steps
        if decay is None or (1 - decay) * steps >= STEPS_PER_AVERAGE:
            return
        suits = max(1 - STEPS_PER_AVERAGE / steps, 0)
        self._log(
            f"note: --ema_decay {decay:g} averages over {1 / (1 - decay):,.0f} steps, and the run "
            f"has {steps:,}: the average may lag behind; {suits:.2g} or less would suit it"
        )

    def _note_files_left_out(self) -> None:
        """Say which files the run goes without, because an optional package is not installed."""
        left_out = [file for package, file in OPTIONAL_FILES.items() if missing([package])]
        if left_out and self.folder is not None:
            self._log(f"note: no {' and no '.join(left_out)}: {missing(OPTIONAL_FILES)}")

    def _autotune(self) -> None:
        config, device = self.config, self.process.device
        if is_search_wanted(config.autotune, self._total_steps, device):
            data, amp = config.data, amp_dtype(config.amp, device)
            calls = None
            if self.process.is_main:
                calls = calls_of(self.model, data.batch_size, data.image_size, amp, device)
            for line in search(calls, str(device), self.process.broadcast):
                self._log(line)
        if self._chosen is None and compares_steps(config, self._total_steps, device):
            chosen = choose_for_run(config, self.model, self._total_steps, self.process, self._log)
            self._compute_with(chosen)

    def _compute_with(self, chosen: Chosen) -> None:
        """Compute as whole steps have decided, now or before the run was interrupted."""
        self._chosen = chosen
        switch = getattr(self.train_step.model, "module", self.train_step.model)
        assert isinstance(switch, Switch)
        switch.use(chosen.training)

    @property
    def _batch(self) -> int:
        """Images per step, summed over ranks."""
        return self.config.data.batch_size * self.config.accumulate * self.process.world_size

    @property
    def _steps_left_in_epoch(self) -> int:
        steps = max(len(self.splits.train) - self.images_seen, 0) / self._batch
        return math.floor(steps) if self.config.data.drop_last else math.ceil(steps)

    @property
    def _steps_done(self) -> float:
        """Steps of the present size so far; a fraction if the run had another batch size before."""
        return self.epoch * self.steps_per_epoch + min(
            self.images_seen / self._batch, self.steps_per_epoch
        )

    @property
    def _epochs_done(self) -> float:
        """Epochs so far, a fraction within an epoch."""
        return self._steps_done / self.steps_per_epoch

    # Training

    def train_epoch(self, stop: StopSignal) -> bool:
        """Train to the end of the current epoch; return False if a signal stopped it."""
        self.train_loader.set_epoch(self.epoch, self.images_seen)
        batches = iter(self.train_loader)
        window = _Window()
        interval = self.config.checkpoint_interval
        for left in reversed(range(self._steps_left_in_epoch)):
            if stop.poll():
                return False
            self._prepare_step()
            for micro in range(self.config.accumulate):
                asked = time.perf_counter()
                images, labels = next(batches)
                window.waited += time.perf_counter() - asked
                self.train_step(images, labels, update=micro == self.config.accumulate - 1)
                window.images += len(labels) * self.process.world_size
            self.step += 1
            self.images_seen += self._batch
            if self.step % self.config.log_interval == 0 or left == 0:
                self._record_steps(window)
                window = _Window()
            if interval is not None and self.step % interval == 0 and left > 0:
                self._save(best=False)
        return True

    def _prepare_step(self) -> None:
        """Set seeds and learning rate from the step number, so checkpoints hold no random state."""
        entropy = (self.config.seed, self.step, self.process.rank)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        # torch.manual_seed also seeds unused backends and records a stack trace for each.
        torch.default_generator.manual_seed(seed)
        if self.process.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        set_lr(self.train_step.optimizer, self._lr)

    @property
    def _lr(self) -> float:
        schedule, lr, epochs = self.config.schedule, self.config.optimizer.lr, self.config.epochs
        return learning_rate(schedule, lr, self._steps_done, self.steps_per_epoch, epochs)

    def _record_steps(self, window: "_Window") -> None:
        """Record the sums since the last log line. Only this waits for the device."""
        totals = self.process.sum(self.train_step.totals)
        nonfinite = self.process.max(self.train_step.pop_nonfinite_steps())
        loss_sum, correct, counted, skipped, streak = torch.cat([totals, nonfinite]).tolist()
        totals.zero_()
        seconds = time.perf_counter() - window.started
        self._train_seconds += seconds
        self._train_images += window.images
        self.nonfinite_steps += int(skipped)
        if streak >= self.config.max_nonfinite_steps:
            raise self._diverged(f"the loss or gradients of {streak:.0f} steps in a row are")
        if self._logger is None:
            return
        scaler = self.train_step.scaler
        values = {
            "epoch": self._epochs_done,
            "lr": self.train_step.optimizer.param_groups[0]["scheduled_lr"],
            "images_per_second": window.images / seconds,
            "data_share": window.waited / seconds,
            "nonfinite_steps": self.nonfinite_steps,
        }
        if counted:
            values |= {"loss": loss_sum / counted, "top1": 100 * correct / counted}
        if scaler.is_enabled():
            values["scale"] = scaler.get_scale()
        memory = memory_used(self.process.device)
        if memory is not None:
            values["memory_gib"] = memory
        elapsed = time.perf_counter() - self._started
        done = self.step - self._first_step
        eta = format_time(elapsed / done * (self._total_steps - self.step))
        self._logger.record("train", self.step, values, f"{self._step_line(values)} eta {eta}")

    def _step_line(self, values: dict[str, float]) -> str:
        loss, top1 = (values.get(key, math.nan) for key in ("loss", "top1"))
        line = (
            f"epoch {self.epoch + 1}/{self.config.epochs} "
            f"step {self.images_seen // self._batch}/{self.steps_per_epoch} loss {loss:.4f} "
            f"top1 {top1:.1f} img/s {values['images_per_second']:,.1f} "
            f"(data {values['data_share']:.1%}) lr {values['lr']:.2e}"
        )
        if "scale" in values:
            line += f" scale {values['scale']:g}"
        if self.nonfinite_steps:
            label = "skipped" if "scale" in values else "not finite"
            line += f" {label} {self.nonfinite_steps}"
        if "memory_gib" in values:
            line += f" mem {values['memory_gib']:.1f}GiB"
        return line

    def _diverged(self, what: str) -> GoogLeNetError:
        """Return the error that ends a run with non-finite numbers."""
        fp16 = self.train_step.amp_dtype == torch.float16
        return GoogLeNetError(
            f"step {self.step}: {what} not finite; the likely causes are a learning rate that is "
            f"too high (--optimizer.lr {self.config.optimizer.lr:g}) or warmed up too quickly, "
            f"{'values beyond the range of fp16 (try --amp bf16), ' if fp16 else ''}"
            "and broken images, labels or starting weights; no checkpoint holds such weights: "
            "--resume auto continues from the last one"
        )

    # Evaluation and checkpoints

    def _finish_epoch(self, stop: StopSignal) -> Evaluation | None:
        """Evaluate if an evaluation is due, and save.

        Raises:
            Stopped: a signal came during the evaluation, which a resumed run begins anew.
        """
        trained = self.epoch, self.images_seen
        self.epoch, self.images_seen = self.epoch + 1, 0
        interval = self.config.save_interval
        of_epoch = self.epoch if interval is not None and self.epoch % interval == 0 else None
        if self.epoch % self.config.eval_interval and self.epoch < self.config.epochs:
            self._save(best=False, of_epoch=of_epoch)
            return None
        ema = self.train_step.ema
        try:
            evaluation = self._evaluate(stop)
            raw = None if ema is None else self._evaluate(stop, averaged=False)
        except Stopped:
            self.epoch, self.images_seen = trained
            raise
        best = evaluation.top1 > self.best_top1
        self.best_top1 = max(self.best_top1, evaluation.top1)
        self._save(best=best, of_epoch=of_epoch)
        if self._logger is not None:
            values = {
                "epoch": self.epoch,
                "loss": evaluation.loss,
                "top1": evaluation.top1,
                "top5": evaluation.top5,
            }
            beside = ""
            if raw is not None:
                values["top1_not_averaged"] = raw.top1
                beside = f"not averaged {raw.top1:.2f}, "
            self._logger.record(
                "val",
                self.step,
                values,
                f"epoch {self.epoch}/{self.config.epochs} validation: loss {evaluation.loss:.4f} "
                f"top1 {evaluation.top1:.2f} top5 {evaluation.top5:.2f} "
                f"({beside}best top1 {self.best_top1:.2f}, {evaluation.images} images)",
            )
        return evaluation

    def _evaluate(self, stop: StopSignal | None = None, *, averaged: bool = True) -> Evaluation:
        """Evaluate the average of the weights where there is one, unless not `averaged`."""
        ema = self.train_step.ema
        model = self.model if ema is None or not averaged else ema.module
        for buffer in model.buffers():
            self.process.broadcast_tensor(buffer)
        amp = amp_dtype(self.config.amp, self.process.device)
        network = freeze(model, amp)
        compute = (self._chosen or Chosen()).evaluation.for_inference(network)
        compute = GraphedNetwork(compute, self._capturer, self.config.data.batch_size)
        batches = self.val_loader if stop is None else self._val_batches(stop)
        return evaluate(compute, batches, self.process, network.num_classes, amp)

    def _val_batches(self, stop: StopSignal) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the validation batches; raise `Stopped` in all processes before the same one."""
        number = torch.tensor(float(len(self.val_loader)), device=self.process.device)
        batches = iter(self.val_loader)
        for _ in range(int(self.process.max(number).item())):  # some have one batch less
            if stop.poll():
                raise Stopped
            yield from islice(batches, 1)

    def _save(self, *, best: bool, of_epoch: int | None = None) -> None:
        self._check_weights()
        if self.folder is None:
            return
        step = self.train_step
        state = {
            "version": __version__,
            "meta": self._meta(),
            "config": config_values(self.config),
            "epoch": self.epoch,
            "images_seen": self.images_seen,
            "order": self._order(),
            "held_out": None if self._held_out is None else self._held_out.state(),
            "step": self.step,
            "nonfinite_steps": self.nonfinite_steps,
            "best_top1": self.best_top1,
            "candidates": self._candidates(),
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(step.optimizer),
            "scaler": step.scaler.state_dict(),
        }
        if step.ema is not None:
            state["ema"] = step.ema.module.state_dict()
            state["ema_updates"] = step.ema.updates
        self.folder.save_checkpoint(state, best=best, of_epoch=of_epoch)

    def _check_weights(self) -> None:
        """Stop all processes if the weights of any of them are not finite."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        weights = [t.detach() for t in tensors if t.is_floating_point()]
        greatest = torch.stack(torch._foreach_norm(weights, math.inf)).max()
        if self.process.max((~greatest.isfinite()).float()).item():
            raise self._diverged("weights or batch-norm statistics are")

    def _order(self) -> list[int | str]:
        """Return what determines an epoch's images: the seed of their order, number and digest."""
        seed = self.config.seed if self.config.data.shuffle else -1
        return [seed, len(self.splits.train), self._images_digest]

    def _meta(self) -> dict[str, Any]:
        """Return what describes the network and its input."""
        options = self.config.model
        names = self.splits.train.class_names
        known = names if len(names) == self.model.num_classes else None
        return {
            "preset": options.preset,
            "num_classes": self.model.num_classes,
            "aux": options.aux,
            "lrn": options.lrn,
            "dropout": options.dropout,
            "transform_input": self.model.transform_input,
            **evaluation_preprocessing(self.config, known).values(),
        }

    def _open_folder(self) -> RunFolder | None:
        """Open the run's folder; None in all processes but the main one."""
        if not self.process.is_main:
            return None
        path, resume = self.config.output, self.config.resume
        if path is None and resume not in (None, "auto"):
            path = Path(resume).parent
        folder = RunFolder(path, resuming=resume is not None)
        self.config = replace(self.config, output=folder.path)
        return folder

    def _start_from_weights_or_checkpoint(self) -> None:
        checkpoint = self._find_checkpoint()
        if self.config.model.weights is not None and checkpoint is None:
            self._log(printable(load_weights(self.model, self.config.model.weights)))
        self.train_step = build_train_step(self.config, self.model, self.process, self._capturer)
        if checkpoint is not None:
            self._resume(*checkpoint)
            self._keep_best(checkpoint[0].with_name("best.pt"))
            if checkpoint[0] == Path(str(self.config.resume)):
                self._save(best=False)  # from now on --resume auto finds it

    def _keep_best(self, best: Path) -> None:
        """See to it that the folder has the best checkpoint so far, or that the next one counts."""
        if self.folder is not None and not self.folder.adopt_best(best, self.best_top1):
            self.best_top1 = -1.0
        self.best_top1 = self.process.broadcast(self.best_top1)

    def _find_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """Read the checkpoint to resume from in the main process; return path and state in all."""
        found, resume = None, self.config.resume
        if self.folder is not None:
            if resume == "auto" or self.folder.restarted:
                found = self.folder.load_newest()
            if found is None and resume not in (None, "auto"):
                found = Path(resume), load_checkpoint(Path(resume))
        return self.process.broadcast(found)

    def _resume(self, path: Path, state: dict[str, Any]) -> None:
        own, saved = self._meta(), state["meta"]
        check_same_network(path, saved, own)
        check_same_classes(path, saved["class_names"], self.splits.train.class_names)
        if (resize := saved.get("resize")) not in (None, own["resize"]):
            self._log(f"note: that run resized images with --data.resize {resize}")
        self._resume_candidates(state.get("candidates"))
        step = self.train_step
        self.model.load_state_dict(state["model"])
        self.model.transform_input = saved["transform_input"]
        load_momentum(step.optimizer, state["optimizer"])
        if state["scaler"]:  # empty if that run did not scale
            step.scaler.load_state_dict(state["scaler"])
        if step.ema is not None:
            # A run that had no average until now starts it from its weights.
            step.ema.module.load_state_dict(state.get("ema", state["model"]))
            step.ema.module.transform_input = self.model.transform_input
            step.ema.updates = int(state.get("ema_updates", 0))
        for key in ("epoch", "images_seen", "step", "nonfinite_steps", "best_top1"):
            setattr(self, key, state[key])
        if change := changed_images(state["order"], self._order()):
            restart = "; the interrupted epoch starts over" if self.images_seen else ""
            self._log(f"{change}{restart}")
            self.images_seen = 0
        if self.folder is not None:
            self.folder.drop_metrics_after(self.step)
        self._log(f"resumed {printable(path)} at epoch {self._epochs_done:.2f}, step {self.step}")

    def _candidates(self) -> dict[str, str] | None:
        """Return what whole steps have decided; None where a flag did."""
        if self.config.compile:
            return None
        return (self._chosen or Chosen()).state(self.process.device)

    def _resume_candidates(self, saved: dict[str, str] | None) -> None:
        """Compute as the run did before, so that numbers do not change; a flag comes first."""
        if self.config.compile:
            return
        chosen = Chosen() if saved is None else Chosen.of(saved, self.process.device)
        if chosen is None:
            assert saved is not None
            self._log(
                f"note: that run computed as {saved['training']} on {saved['device']}, this one "
                f"computes as {Chosen().training.name} on {self.process.device.type}"
            )
        elif chosen != Chosen():
            how = f"{chosen.training.name} in training, {chosen.evaluation.name} in evaluation"
            self._log(f"computes as the run did before: {how}")
        try:
            self._compute_with(chosen or Chosen())
        except TypeError as error:  # a setting has changed since, such as --model.sync_bn
            self._log(f"note: cannot: {error}; computes as {Chosen().training.name}")
            self._compute_with(Chosen())

    # Output

    def _log(self, line: str) -> None:
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
            f"{data} {printable(self.splits.train.source)}: {len(self.splits.train)} training and "
            f"{len(self.splits.val)} validation images at {config.data.image_size} px\n"
            f"evaluation at {evaluation_preprocessing(config, None)}\n"
            f"{self._dropped_images()}{self.train_loader.description}\n"
            f"{config.epochs} epochs of {self.steps_per_epoch} steps, batch "
            f"{config.data.batch_size} x {config.accumulate} x {process.world_size} processes on "
            f"{process.device.type}{' with CUDA graphs' if self._capturer else ''} in "
            f"{str(precision).removeprefix('torch.')}, "
            f"{torch.get_num_threads()} threads\n"
            f"output {printable(config.output)}"
        )

    def _dropped_images(self) -> str:
        if not self.bad_images:
            return ""
        file = "" if self.folder is None else f", see {self.folder.path / 'bad_images.txt'}"
        return f"{len(self.bad_images)} images cannot be read and are skipped{file}\n"

    def _result(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """Plot the curves in the main process, and return the numbers of a finished run."""
        if self.folder is not None and not missing(["matplotlib"]):
            plot_curves(self.folder.metrics, self.folder.path / "curves.png")
        return {
            "top1": round(evaluation.top1, 3),
            "top5": round(evaluation.top5, 3),
            "loss": round(evaluation.loss, 5),
            "best_top1": round(self.best_top1, 3),
            "epochs": self.config.epochs,
            "steps": self.step,
            "nonfinite_steps": self.nonfinite_steps,
            "images_per_second": (
                round(self._train_images / self._train_seconds, 1) if self._train_images else None
            ),
            "seconds": round(time.perf_counter() - self._started, 1),
            "preset": self.config.model.preset,
            "num_classes": self.model.num_classes,
            "world_size": self.process.world_size,
            "bad_images": len(self.bad_images),
            "output": str(self.config.output),
        }


class _Window:
    """Measurements between two log lines."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.images = 0
        """Summed over ranks."""
        self.waited = 0.0
        """Seconds spent waiting for images."""
