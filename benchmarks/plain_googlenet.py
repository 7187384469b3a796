"""GoogLeNet as users of PyTorch and PaddlePaddle write it, layer by layer.

The network is preset `paper` without LRN and dropout, with the same names of weights, so both
compute the same function from the same weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Framework(NamedTuple):
    """The layers of a framework. PaddlePaddle's take the same arguments as PyTorch's."""

    Module: Any
    Sequential: Any
    Conv2d: Any
    ReLU: Any
    MaxPool2d: Any
    AvgPool2d: Any
    AdaptiveAvgPool2d: Any
    Flatten: Any
    Linear: Any
    concatenate: Callable[[list[Any]], Any]
    """Concatenates tensors (N, C, H, W) along C."""


def torch_framework() -> Framework:
    """PyTorch."""
    import torch
    from torch import nn

    return Framework(
        nn.Module,
        nn.Sequential,
        nn.Conv2d,
        lambda: nn.ReLU(inplace=True),
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Linear,
        lambda tensors: torch.cat(tensors, 1),
    )


def paddle_framework() -> Framework:
    """PaddlePaddle."""
    import paddle
    from paddle import nn

    return Framework(
        nn.Layer,
        nn.Sequential,
        nn.Conv2D,
        nn.ReLU,
        nn.MaxPool2D,
        nn.AvgPool2D,
        nn.AdaptiveAvgPool2D,
        nn.Flatten,
        nn.Linear,
        lambda tensors: paddle.concat(tensors, 1),
    )


def plain_googlenet(f: Framework) -> Any:
    """Return the network: (N, 3, 224, 224) -> logits (N, 1000), in training three of them."""
    conv, inception, aux_head = _conv(f), _inception(f), _aux_head(f)

    class GoogLeNet(f.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = conv(3, 64, 7, 2)
            self.conv2 = conv(64, 64, 1)
            self.conv3 = conv(64, 192, 3)
            self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
            self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
            self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
            self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
            self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
            self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
            self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
            self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
            self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
            self.pool = f.MaxPool2d(3, 2, ceil_mode=True)
            self.head = f.Sequential(f.AdaptiveAvgPool2d(1), f.Flatten())
            self.aux1, self.aux2 = aux_head(512), aux_head(528)
            self.fc = f.Linear(1024, 1000)

        def forward(self, x: Any) -> Any:
            x = self.pool(self.conv3(self.conv2(self.pool(self.conv1(x)))))
            x = self.pool(self.inception3b(self.inception3a(x)))
            x4a = self.inception4a(x)
            x4d = self.inception4d(self.inception4c(self.inception4b(x4a)))
            x = self.pool(self.inception4e(x4d))
            logits = self.fc(self.head(self.inception5b(self.inception5a(x))))
            return (logits, self.aux1(x4a), self.aux2(x4d)) if self.training else logits

    return GoogLeNet()


def _conv(f: Framework) -> Any:
    class Conv(f.Module):  # type: ignore[name-defined]
        def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
            super().__init__()
            self.conv = f.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
            self.relu = f.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.conv(x))

    return Conv


def _inception(f: Framework) -> Any:
    conv = _conv(f)

    class Inception(f.Module):  # type: ignore[name-defined]
        def __init__(
            self, inputs: int, c1: int, c3_reduce: int, c3: int, c5_reduce: int, c5: int, pool: int
        ) -> None:
            super().__init__()
            self.branch1 = conv(inputs, c1, 1)
            self.branch2 = f.Sequential(conv(inputs, c3_reduce, 1), conv(c3_reduce, c3, 3))
            self.branch3 = f.Sequential(conv(inputs, c5_reduce, 1), conv(c5_reduce, c5, 5))
            self.branch4 = f.Sequential(f.MaxPool2d(3, 1, 1), conv(inputs, pool, 1))

        def forward(self, x: Any) -> Any:
            branches = (self.branch1, self.branch2, self.branch3, self.branch4)
            return f.concatenate([branch(x) for branch in branches])

    return Inception


def _aux_head(f: Framework) -> Any:
    conv = _conv(f)

    class AuxHead(f.Module):  # type: ignore[name-defined]
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.pool = f.AvgPool2d(5, 3)
            self.conv = conv(inputs, 128, 1)
            self.flatten = f.Flatten()
            self.fc1, self.relu, self.fc2 = f.Linear(2048, 1024), f.ReLU(), f.Linear(1024, 1000)

        def forward(self, x: Any) -> Any:
            x = self.flatten(self.conv(self.pool(x)))
            return self.fc2(self.relu(self.fc1(x)))

    return AuxHead
