"""SGD in one launch: half-precision gradients in, fp32 parameters and half copies out."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.optimizer import ParamsT

from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.ops.sgd_step import find_nonfinite, sgd_step


class FusedSGD(optim.SGD):
    """`torch.optim.SGD` whose step is one launch, its state dicts included.

    It reads the gradients of half-precision copies where there are some, and writes the copies with
    the parameters. With `LossScaler` it searches the gradients itself, which only reads them; that
    is a second launch.

    A group's `lr` is a float or, for steps that are captured in a CUDA graph, an fp32 tensor of one
    value on the device. The tensors of the state and the copies keep their addresses, so that a
    captured step can be replayed.

    Args:
        params: of one device, fp32, with names or without, in groups or not.
        lr: learning rate.
        momentum: share of the momentum that stays in each step.
        weight_decay: L2 penalty.
        nesterov: take Nesterov's momentum.
        half: the network with half-precision copies of parameters; None: there are none.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        half: HalfWeights | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            fused=True,
        )
        self._half = half
        self._copies: Mapping[Tensor, Tensor] = {} if half is None else half.copies
        self._averages: Mapping[Any, Tensor] = {}
        self._average_weight: Tensor | None = None
        self._lr: dict[int, tuple[float, Tensor]] = {}
        """Group -> learning rate, and the tensor that was filled with it."""
        self._device = self.param_groups[0]["params"][0].device
        self._found = torch.zeros((), device=self._device)
        self._none = torch.empty(0, device=self._device)

    def average(self, averages: Mapping[nn.Parameter, Tensor], weight: Tensor) -> None:
        """Update averages of the parameters in each step: average.lerp_(parameter, weight).

        Steps that are skipped move the averages too.

        Args:
            averages: parameter -> its average, for all parameters of the optimizer.
            weight: one fp32 value on the device, read in each step; 1 - decay, or 1 to copy.
        """
        self._averages, self._average_weight = dict(averages), weight

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have gradients, and the averages of all.

        Raises:
            RuntimeError: groups with other momenta than the first; a learning rate that is a float
                while a CUDA graph is captured, which would repeat it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        momentum, nesterov = self._momentum()
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        lr: list[Tensor] = []
        weight_decay: list[float] = []
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                gradient = self._copies.get(parameter, parameter).grad
                if gradient is not None or self._averages:
                    parameters.append(parameter)
                    gradients.append(self._none if gradient is None else gradient)
                    lr.append(self._lr_of(index, group))
                    weight_decay.append(group["weight_decay"])
        if parameters:
            sgd_step(
                parameters,
                gradients,
                [self._momentum_buffer(p) for p in parameters] if momentum else [],
                [self._copies.get(p, self._none) for p in parameters] if self._copies else [],
                [self._averages[p] for p in parameters] if self._averages else [],
                lr,
                weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                average_weight=self._average_weight,
            )
            if self._half is not None:
                self._half.mark_fresh()
        return loss

    def find_nonfinite(self) -> Tensor:
        """Return 1 on the device if a gradient is not finite, else 0, in the same tensor always."""
        gradients = [leaf.grad for leaf in self.leaves() if leaf.grad is not None]
        find_nonfinite(gradients, self._found)
        return self._found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of parameters and copies."""
        super().zero_grad(set_to_none)
        for copy in self._copies.values():
            if copy.grad is not None:
                copy.grad = None if set_to_none else copy.grad.zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class or `torch.optim.SGD`, into the tensors that there are."""
        before = {p: self._momentum_buffer(p) for p in self._parameters() if p in self.state}
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            loaded = state.get("momentum_buffer")
            if loaded is not None:
                own = before.get(parameter, torch.empty_like(parameter))
                state["momentum_buffer"] = own.detach().copy_(loaded)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def leaves(self) -> list[Tensor]:
        """Return the tensors that have gradients: parameters, or their copies."""
        return [self._copies.get(p, p) for p in self._parameters()]

    def _momentum(self) -> tuple[float, bool]:
        first, *others = [(g["momentum"], g["nesterov"]) for g in self.param_groups]
        if any(other != first for other in others):
            raise RuntimeError("FusedSGD: all groups must have the same momentum and nesterov")
        return first

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]

    def _lr_of(self, index: int, group: dict[str, Any]) -> Tensor:
        lr = group["lr"]
        if isinstance(lr, Tensor):
            return lr
        before, tensor = self._lr.get(index, (None, None))
        if tensor is None or before != lr:
            if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("FusedSGD: in a captured step lr must be a tensor on the device")
            tensor = torch.full((), lr, device=self._device) if tensor is None else tensor.fill_(lr)
            self._lr[index] = lr, tensor
        return tensor


class LossScaler(torch.amp.GradScaler):
    """`GradScaler` that leaves the search for overflow to a `FusedSGD`, which only reads."""

    def _check_inf_per_device(self, optimizer: optim.Optimizer) -> dict[str, Any]:
        if not isinstance(optimizer, FusedSGD):
            return super()._check_inf_per_device(optimizer)
        found = optimizer.find_nonfinite()
        state = self._per_optimizer_states[id(optimizer)]
        state["found_inf_per_device"] = {found.device: found}
        return state["found_inf_per_device"]
