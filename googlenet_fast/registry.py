"""The fused ops, their backends, and the choice between them. No op is named here.

An `Op` has a pure-PyTorch reference and backends, best first. `GOOGLENET_FAST_IMPL` (read once, at
import) or `use_impl` requests one by name:

- `auto`: the first backend that supports the call. On a GPU the installed policy orders them by
  measured speed and checks a kernel before its first use. A backend that fails its check, or a
  call that only the reference can take, is named in one warning with the reason.
- `reference`: the reference, for every op.
- any other name: that backend in every op that has it, an error where it cannot run. Ops without
  a backend of that name are left to `auto`.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import index
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad as _forward_ad

from googlenet_fast.errors import GoogLeNetError

VARIABLE = "GOOGLENET_FAST_IMPL"
"""Environment variable that names the requested backend."""

NAMESPACE = "googlenet_fast"
"""Of the registered ops: `torch.ops.googlenet_fast`."""

LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
TAGS = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
"""Of every registered op. Under torch.compile arguments keep their strides."""

MEMO_LIMIT = 4096
"""Calls of different shapes that an op remembers its choice for."""

Call = tuple[Any, ...]
"""A call without its data: whether gradients are on, then each argument. A tensor is (shape,
dtype), a list a tuple of these; numbers, strings and None are themselves, other objects their
type."""

Supports = Callable[..., str | None]
"""Takes an op's arguments; returns None, or for the user why the backend cannot take the call."""

_PLAIN = (bool, int, float, str, NoneType)

UNKNOWN = "it cannot be checked now"
"""What `distrust` returns where no check can run: skipped without a warning, not remembered."""


class Work(NamedTuple):
    """The two numbers that bound the time of a call."""

    operations: float
    """Multiplications and additions."""
    bytes: float
    """Read and written."""


class Kernels(NamedTuple):
    """The registered ops that compute one op on one backend."""

    forward: OpOverload
    """Inference. Differentiable through its Autograd kernel."""
    training: OpOverload
    """Forward that also returns what backward reads."""
    backward: OpOverload
    autograd: Callable[..., Any]
    """The Autograd kernel of `forward`; takes these kernels, then the op's arguments."""

    @property
    def run(self) -> Callable[..., Any]:
        """Does what `forward` does, without a trip through the dispatcher to `autograd`."""
        return partial(self.autograd, self)


def always(*arguments: object) -> None:
    """Support every call."""


def always_true(*arguments: object) -> bool:
    """Cover every call."""
    return True


@dataclass(frozen=True)
class Backend:
    """One implementation of an op on one type of device."""

    name: str
    """What `GOOGLENET_FAST_IMPL` takes: native, cuda, triton or aten."""
    device: str
    """"cpu" or "cuda"."""
    run: Callable[..., Any]
    """Takes the op's arguments; returns its result, with gradients."""
    supports: Supports = always
    """Depends on nothing but what `Call` and the device hold."""
    kernels: Kernels | None = None
    """For other ops to call, without autograd."""
    check_first: bool = False
    """Compare with the reference on this GPU before `auto` uses it."""
    covers: Callable[..., bool] = always_true
    """Takes the op's arguments; False for calls that it has no kernel for by design. A request by
    name leaves them to `auto`."""
    on_request: bool = False
    """Never chosen by `auto`: Triton's interpreter on a CPU is for tests."""


@dataclass(eq=False)
class Op:
    """A fused op: what it computes and every way to compute it."""

    name: str
    reference: Callable[..., Any]
    """Pure PyTorch."""
    backends: tuple[Backend, ...]
    """Best first, where nothing was measured."""
    samples: Callable[[], Iterable[Call]]
    """Calls to check backends with, in fp32: layers of the network and odd sizes."""
    work: Callable[[Call], Work]
    """Arithmetic and memory traffic of a call's fused plan."""
    _memo: dict[Any, Backend] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.fallback = Backend("reference", "any", self.reference)
        self._traced = {
            (backend.name, backend.device): replace(backend, run=backend.kernels.forward)
            for backend in self.backends
            if backend.kernels is not None
        }
        """What torch.compile traces: one registered op, not what its Autograd kernel calls."""
        OPS[self.name] = self

    def choose(self, *arguments: Any) -> Backend:
        """Return the backend that computes this call; the reference counts as one.

        Raises:
            GoogLeNetError: the requested backend cannot take the call; names those that can.
        """
        if _in_transform() or _forward_ad._current_level >= 0:  # transforms_active(), inlined
            return self.fallback
        if torch.compiler.is_compiling():
            chosen = self._choose(arguments)[0]
            return self._traced.get((chosen.name, chosen.device), chosen)
        key: list[Any] = [_requested, torch.is_grad_enabled()]
        for value in arguments:
            if isinstance(value, Tensor):
                key += (value.shape, value.dtype, value.device)
            elif isinstance(value, (list, tuple)):
                key.append(len(value))
                for tensor in value:
                    key += (tensor.shape, tensor.dtype, tensor.device)
            elif isinstance(value, _PLAIN):
                key.append(value)
            else:
                key.append(type(value))
        memo_key = tuple(key)
        try:
            found = self._memo.get(memo_key)
        except TypeError:  # symbolic sizes have no hash
            return self._choose(arguments)[0]
        if found is None:
            found, final = self._choose(arguments)
            if final:
                if len(self._memo) >= MEMO_LIMIT:
                    self._memo.clear()
                self._memo[memo_key] = found
        if _recorder is not None:
            _recorder(self, arguments)
        return found

    def on(self, device: str) -> tuple[Backend, ...]:
        """Return the backends for a type of device, best first."""
        return tuple(backend for backend in self.backends if backend.device == device)

    def candidates(self, arguments: Sequence[Any]) -> Iterator[tuple[Backend, str | None, bool]]:
        """Yield backends in the order of `auto`, each with None or why `auto` skips it.

        The last value is True if the backend supports the call but failed its check.
        """
        device = device_of(arguments)
        able = tuple(b for b in self.on(device.type) if not b.on_request and b.covers(*arguments))
        layer: Call | None = None
        if device.type == "cuda" and (len(able) > 1 or any(b.check_first for b in able)):
            layer = layer_of(arguments)
            names = tuple(b.name for b in able)
            names = _order(self.name, names, _name_of(device), layer, _batch_of(arguments))
            able = tuple(b for name in names for b in able if b.name == name)
        for backend in able:
            reason = backend.supports(*arguments)
            failed = False
            if reason is None and backend.check_first and layer is not None:
                reason = _distrust(self.name, backend.name, _name_of(device), layer)
                failed = reason is not None
            yield backend, reason, failed

    def _choose(self, arguments: Sequence[Any]) -> tuple[Backend, bool]:
        """Also return whether the same call gets the same answer next time."""
        if _requested == "reference":
            return self.fallback, True
        if _requested != "auto":
            check_name(VARIABLE, _requested)
            if any(b.name == _requested and b.covers(*arguments) for b in self.backends):
                return self._require(arguments), True
        final = True
        unsupported = []
        for backend, reason, failed in self.candidates(arguments):
            if reason is None:
                return backend, final
            if reason == UNKNOWN:
                final = False
            elif failed:
                _warn_once(self.name, backend.name, reason)
            else:
                unsupported.append((backend.name, reason))
        for name, reason in unsupported:
            _warn_once(self.name, name, reason)
        return self.fallback, final

    def _require(self, arguments: Sequence[Any]) -> Backend:
        device = device_of(arguments).type
        reasons = {b.name: (b, b.supports(*arguments)) for b in self.on(device)}
        backend, reason = reasons.get(_requested, (None, f"it does not run on {device}"))
        if backend is not None and reason is None:
            return backend
        able = [name for name, (_, why_not) in reasons.items() if why_not is None]
        raise GoogLeNetError(
            f"{self.name} cannot run as {_requested}: {reason};"
            f" available: {', '.join([*able, 'reference'])}"
        )


OPS: dict[str, Op] = {}
"""Every op, by name."""

_requested = os.environ.get(VARIABLE) or "auto"
_recorder: Callable[[Op, Sequence[Any]], None] | None = None
_warned: set[tuple[str, str, str]] = set()


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let torch.compile call a function while tracing and keep its result.

    `torch.compiler.assume_constant_result` does the same, but imports Dynamo: 1.5 s.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


_in_transform = torch._C._are_functorch_transforms_active
if torch.__version__ < "2.10":  # compared as versions; Dynamo of 2.4 does not trace it

    @constant
    def _in_transform() -> bool:
        return torch._C._are_functorch_transforms_active()


@constant
def _keep_order(
    op: str, names: tuple[str, ...], device: str, layer: Call, batch: int | None
) -> tuple[str, ...]:
    return names


@constant
def _trust_none(op: str, backend: str, device: str, layer: Call) -> str | None:
    return UNKNOWN


Order = Callable[[str, tuple[str, ...], str, Call, int | None], tuple[str, ...]]
_order: Order = _keep_order
_distrust: Callable[[str, str, str, Call], str | None] = _trust_none


def install_policy(
    order: Order,
    distrust: Callable[[str, str, str, Call], str | None],
) -> None:
    """Set how `auto` chooses on GPUs; by default as listed, without backends to check first.

    Both functions are marked `constant`. They take the op's name, names or a name of backends, the
    device, such as "cuda:0", and what `layer_of` returns.

    Args:
        order: returns the names, fastest first; also takes the number of images, None if it may
            vary.
        distrust: returns None if the backend's results are right there, `UNKNOWN`, or how they
            are wrong.
    """
    global _order, _distrust
    _order, _distrust = order, distrust
    invalidate()


def invalidate() -> None:
    """Forget all choices made so far, for example after new measurements."""
    for op in OPS.values():
        op._memo.clear()


def requested() -> str:
    """Return the name of the requested backend."""
    return _requested


@contextmanager
def use_impl(name: str) -> Iterator[None]:
    """Request a backend inside a `with` block, in all threads of the process.

    Raises:
        GoogLeNetError: no op has a backend of this name.
    """
    global _requested
    check_name("use_impl", name)
    previous, _requested = _requested, name
    try:
        yield
    finally:
        _requested = previous


def check_name(source: str, name: str) -> None:
    """Raise GoogLeNetError, which names the source of a backend's name, if no op has it."""
    known = [
        "auto",
        "reference",
        *dict.fromkeys(b.name for op in OPS.values() for b in op.backends),
    ]
    if name not in known:
        raise GoogLeNetError(f"{source}: no backend {name!r}; choose from {', '.join(known)}")


@contextmanager
def record_calls(recorder: Callable[[Op, Sequence[Any]], None] | None) -> Iterator[None]:
    """Show every choice, with its op and arguments, to a function; None: to no function."""
    global _recorder
    previous, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = previous


def transforms_active() -> bool:
    """Return True inside a transform of torch.func or forward-mode AD.

    Kernels behind registered ops have no rules for these: tangents would silently be zero.
    """
    return _in_transform() or _forward_ad._current_level >= 0


def device_of(arguments: Sequence[Any]) -> torch.device:
    """Return the device of the first argument: a tensor or a list of tensors."""
    first = arguments[0]
    return (first if isinstance(first, Tensor) else first[0]).device


def call_of(arguments: Sequence[Any]) -> Call:
    """Describe an op's arguments."""
    call: list[Any] = [torch.is_grad_enabled()]
    for value in arguments:
        if isinstance(value, Tensor):
            call.append((value.shape, value.dtype))
        elif isinstance(value, (list, tuple)):
            call.append(call_of(value)[1:])
        elif isinstance(value, _PLAIN):
            call.append(value)
        else:
            call.append(type(value))
    return tuple(call)


def layer_of(arguments: Sequence[Any]) -> Call:
    """Describe an op's arguments without the batch: the activations are ((C, H, W), dtype)."""
    grad, (shape, dtype), *others = call_of(arguments)
    return grad, _constants((shape[1:], dtype)), *map(_constants, others)


def _batch_of(arguments: Sequence[Any]) -> int | None:
    """Return the number of images; None where a traced program is to serve for any number."""
    first = arguments[0]
    images = (first if isinstance(first, Tensor) else first[0]).shape[0]
    varies = torch.compiler.is_compiling() or isinstance(images, torch.SymInt)
    return None if varies else int(images)


def _constants(value: Any) -> Any:
    """Replace symbolic sizes by their values, on which torch.compile then specialises."""
    if isinstance(value, tuple):
        return tuple([_constants(item) for item in value])
    is_size = isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)
    return index(value) if is_size else value


def _name_of(device: torch.device) -> str:
    return f"cuda:{device.index or 0}"


@constant
def _warn_once(op: str, backend: str, reason: str) -> None:
    if (op, backend, reason) not in _warned:
        _warned.add((op, backend, reason))
        warnings.warn(f"{op} skips backend {backend}: {reason}", RuntimeWarning, stacklevel=2)


def define(schema: str, fake: Callable[..., Any], **kernels: Callable[..., Any]) -> OpOverload:
    """Define a registered op and return it.

    Args:
        schema: such as "double(Tensor x) -> Tensor".
        fake: returns empty results, for torch.compile and FakeTensorMode.
        kernels: by dispatch key; compiled ones come from the extension. A kernel for the Autograd
            key is cheaper than `register_autograd`, which costs half as long again a call and
            cannot run another forward in training than in inference.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=TAGS)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    for key, kernel in kernels.items():
        LIBRARY.impl(name, kernel, key)
    return getattr(getattr(torch.ops, NAMESPACE), name).default
