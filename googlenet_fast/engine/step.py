"""One training step: forward, loss, backward, update."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, optim

from googlenet_fast.capture import Captured, Capturer
from googlenet_fast.engine.clipping import clip_gradients
from googlenet_fast.engine.fused_sgd import LossScaler
from googlenet_fast.engine.gradient_buckets import GradientBuckets
from googlenet_fast.engine.weight_average import WeightAverage
from googlenet_fast.model import GoogLeNetOutputs

AUX_WEIGHT = 0.3
"""Weight of each auxiliary loss (Szegedy et al. 2014, section 5)."""


def googlenet_loss(
    outputs: GoogLeNetOutputs | Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the loss and the logits of the main classifier.

    Cross-entropy of the logits (N, num_classes) against labels (N,), plus 0.3 times that of each
    auxiliary classifier if the network returns them.
    """
    if isinstance(outputs, Tensor):
        return F.cross_entropy(outputs, labels, label_smoothing=label_smoothing), outputs
    main, aux1, aux2 = (
        F.cross_entropy(logits, labels, label_smoothing=label_smoothing) for logits in outputs
    )
    return main + AUX_WEIGHT * (aux1 + aux2), outputs.logits


class TrainStep:
    """Trains the network on one batch at a time; sums up loss and accuracy on the device.

    All state stays in the same tensors and nothing waits for the device, so that a step can be
    captured for each shape of images, and for accumulated batches with and without the update.
    Gradients that accumulate stay in place too, and are zeroed. Without accumulation they live
    within a step, in the memory of the graph: autograd then stores them instead of adding to zeros.

    Args:
        model: the network.
        optimizer: what updates its parameters.
        label_smoothing: share of the target that is spread over all classes.
        accumulate: calls whose gradients are averaged into one update.
        amp_dtype: dtype of autocast, or None for fp32.
        loss_scale: factor of the loss in fp16; the initial one if `dynamic_loss_scale`.
        dynamic_loss_scale: halve the factor after an overflow, double it after 2000 steps without.
        clip_grad_norm: largest norm of all gradients; longer ones are scaled down.
        ema: average of the weights, updated after each step.
        buckets: average the gradients over processes, if there are several.
        capturer: captures steps and replays them; None: each step is launched by the host.
    """

    def __init__(
        self,
        model: Callable[[Tensor], GoogLeNetOutputs | Tensor],
        optimizer: optim.Optimizer,
        *,
        label_smoothing: float = 0.0,
        accumulate: int = 1,
        amp_dtype: torch.dtype | None = None,
        loss_scale: float = 128.0,
        dynamic_loss_scale: bool = True,
        clip_grad_norm: float | None = None,
        ema: WeightAverage[Any] | None = None,
        buckets: GradientBuckets | None = None,
        capturer: Capturer | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.accumulate = accumulate
        self.amp_dtype = amp_dtype
        self.ema = ema
        self.buckets = buckets
        self.fixed_scale = None if dynamic_loss_scale else float(loss_scale)
        self.device = optimizer.param_groups[0]["params"][0].device
        self.scaler: torch.amp.GradScaler = LossScaler(
            self.device.type, init_scale=loss_scale, enabled=amp_dtype == torch.float16
        )
        self.totals = torch.zeros(3, device=self.device, dtype=torch.float64)
        """Sum of losses, correct predictions, images. Batches with a non-finite loss do not count;
        the caller resets it to zero."""
        self.nonfinite_steps = torch.zeros(3, device=self.device)
        """Steps with a non-finite loss or gradients, which gradient scaling skips: their number and
        the longest streak since the last `pop_nonfinite_steps`, and the current streak."""
        self._nonfinite = torch.zeros((), device=self.device, dtype=torch.bool)
        optimizer.register_step_pre_hook(self._note_overflow)
        if clip_grad_norm is not None:
            clip_gradients(optimizer, clip_grad_norm)
        self._captured = Captured(self._step, capturer, self._recover)

    def __call__(self, images: Tensor, labels: Tensor, *, update: bool = True) -> None:
        """Add the gradients of a batch, and update the parameters if `update`.

        images: (N, 3, H, W) channels_last; labels: (N,) int64, both on the network's device.
        """
        self._captured(images, labels, update=update)
        if update and self.ema is not None:
            self.ema.updates += 1

    def _step(self, images: Tensor, labels: Tensor, *, update: bool) -> None:
        with self._without_all_reduce(update):
            with torch.autocast(
                self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
            ):
                loss, logits = googlenet_loss(self.model(images), labels, self.label_smoothing)
            self.scaler.scale(loss / self.accumulate).backward()
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            count = torch.full_like(correct, len(labels))
            finite = loss.isfinite()
            sums = torch.stack([loss.double() * len(labels), correct, count])
            self.totals += torch.where(finite, sums, 0.0)
            self._nonfinite |= ~finite
        if update:
            self._update()

    def _without_all_reduce(self, update: bool) -> AbstractContextManager[None]:
        """Average gradients over the processes only in the batch that updates."""
        return nullcontext() if self.buckets is None or update else self.buckets.no_sync()

    def _update(self) -> None:
        if self.buckets is not None:
            self.buckets.join()
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed_scale)
        self.optimizer.zero_grad(set_to_none=self.accumulate == 1)
        if self.ema is not None:
            self.ema.update()
        self._count_nonfinite_step()

    def _recover(self) -> None:
        """Undo what a capture that failed has done on the host; it has computed nothing."""
        if self.accumulate == 1:
            self.optimizer.zero_grad(set_to_none=True)
        if self.buckets is not None:
            self.buckets.reset()
        if self.scaler.is_enabled():
            self.scaler._per_optimizer_states.clear()
        for name in ("grad_scale", "found_inf"):
            self.optimizer.__dict__.pop(name, None)

    def _note_overflow(
        self, optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Read the flag by which the scaler makes a fused optimizer skip its step."""
        if self.scaler.is_enabled():
            self._nonfinite |= optimizer.found_inf.bool()  # type: ignore[attr-defined]

    def _count_nonfinite_step(self) -> None:
        count, longest, streak = self.nonfinite_steps
        count += self._nonfinite
        streak += 1
        streak *= self._nonfinite
        torch.maximum(longest, streak, out=longest)
        self._nonfinite.zero_()

    def pop_nonfinite_steps(self) -> Tensor:
        """Return and reset the number and longest streak of non-finite steps, on the device."""
        popped = self.nonfinite_steps[:2].clone()
        self.nonfinite_steps[:2] = 0
        return popped
