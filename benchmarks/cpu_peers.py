"""The systems that train or run GoogLeNet on a CPU: this package and its peers.

Every peer computes in fp32 from the same weights, in its own process (`cpu_worker`), and imports
its dependencies there. A peer is constructed from a folder with `weights.npz` and the network in
other formats (`export_network`).
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.plain_googlenet import paddle_framework, plain_googlenet, torch_framework

Array = NDArray[np.float32]

LR, MOMENTUM, AUX_WEIGHT = 0.01, 0.9, 0.3
"""Of SGD, and the weight of each auxiliary loss."""


class Peer(Protocol):
    """A system, with weights loaded."""

    def __init__(self, folder: Path, threads: int) -> None: ...

    def training(self, images: Array, labels: NDArray[np.int64]) -> Callable[[], float]:
        """Return a function that takes the next training step and returns the loss before it."""
        ...

    def inference(self, images: Array) -> Callable[[], Array]:
        """Return a function that computes logits (N, 1000) of images (N, 3, 224, 224)."""
        ...


class TorchPeer:
    """PyTorch's own layers."""

    channels_last = True

    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.weights = {
            name: torch.from_numpy(value) for name, value in np.load(folder / "weights.npz").items()
        }

    def plain(self) -> Any:
        """Return the network, before its weights are loaded."""
        return plain_googlenet(torch_framework())

    def ready(self, network: Any) -> Any:
        """Return the network in this peer's mode."""
        return network

    def network(self, images: Array) -> tuple[Any, Any]:
        """Return network and images in this peer's layout."""
        import torch

        network = self.plain()
        network.load_state_dict(self.weights)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        inputs = torch.from_numpy(images).contiguous(memory_format=layout)
        return self.ready(network.to(memory_format=layout)), inputs

    def training(self, images: Array, labels: NDArray[np.int64]) -> Callable[[], float]:
        """See `Peer`."""
        import torch
        from torch.nn.functional import cross_entropy

        network, inputs = self.network(images)
        targets = torch.from_numpy(labels)
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM, fused=True)

        def step() -> float:
            main, *aux = (cross_entropy(logits, targets) for logits in network(inputs))
            loss = main + AUX_WEIGHT * sum(aux)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    def inference(self, images: Array) -> Callable[[], Array]:
        """See `Peer`."""
        import torch

        network, inputs = self.network(images)
        network.eval()

        @torch.inference_mode()
        def infer() -> Array:
            return network(inputs).numpy()

        return infer


class TorchNchwPeer(TorchPeer):
    """PyTorch's own layers in its default layout."""

    channels_last = False


class TorchCompilePeer(TorchPeer):
    """PyTorch's own layers through torch.compile."""

    def ready(self, network: Any) -> Any:
        """See `TorchPeer`."""
        network.compile(fullgraph=True, dynamic=False)
        return network


def our_network() -> Any:
    """Return this package's network, without LRN and dropout, as the plain network."""
    from googlenet_fast.model import GoogLeNet
    from googlenet_fast.model.layers import Dropout

    network = GoogLeNet("paper", lrn=False)
    for module in network.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    return network


class OurPeer(TorchPeer):
    """This package, in a process set up as its commands do."""

    def plain(self) -> Any:
        """See `TorchPeer`."""
        from googlenet_fast.engine.memory import keep_freed_memory

        keep_freed_memory()
        return our_network()


class PaddlePeer:
    """PaddlePaddle: its layers for training, its inference library with oneDNN for inference."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads

    def network(self) -> Any:
        """Return the network with its weights. PaddlePaddle transposes those of linear layers."""
        import paddle

        network = plain_googlenet(paddle_framework())
        for name, value in np.load(self.folder / "weights.npz").items():
            parameter = network.state_dict()[name]
            parameter.set_value(paddle.to_tensor(value.T if value.ndim == 2 else value))
        return network

    def training(self, images: Array, labels: NDArray[np.int64]) -> Callable[[], float]:
        """See `Peer`."""
        import paddle
        from paddle.nn.functional import cross_entropy

        network = self.network()
        inputs, targets = paddle.to_tensor(images), paddle.to_tensor(labels)
        optimizer = paddle.optimizer.Momentum(LR, MOMENTUM, network.parameters())
        network.train()

        def step() -> float:
            main, *aux = (cross_entropy(logits, targets) for logits in network(inputs))
            loss = main + AUX_WEIGHT * sum(aux)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            return float(loss)

        return step

    def inference(self, images: Array) -> Callable[[], Array]:
        """See `Peer`."""
        import paddle
        from paddle import inference

        network = self.network()
        network.eval()
        path = str(self.folder / f"paddle{os.getpid()}")
        shape = paddle.static.InputSpec([None, 3, 224, 224], "float32", "images")
        paddle.jit.save(network, path, input_spec=[shape])
        config = inference.Config(f"{path}.json", f"{path}.pdiparams")
        config.disable_glog_info()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(self.threads)
        predictor = inference.create_predictor(config)
        inputs = [paddle.to_tensor(images)]
        return lambda: predictor.run(inputs)[0].numpy()


class _InferencePeer:
    """A system for inference only, on the converted network."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads

    def training(self, images: Array, labels: NDArray[np.int64]) -> Callable[[], float]:
        """See `Peer`."""
        raise NotImplementedError


class OnnxRuntimePeer(_InferencePeer):
    """ONNX Runtime."""

    def inference(self, images: Array) -> Callable[[], Array]:
        """See `Peer`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(
            self.folder / "network.onnx", options, providers=["CPUExecutionProvider"]
        )
        return lambda: session.run(None, {"images": images})[0]


class OpenVinoPeer(_InferencePeer):
    """OpenVINO. Without the hint it computes in bf16 if the CPU has it."""

    def inference(self, images: Array) -> Callable[[], Array]:
        """See `Peer`."""
        import openvino

        core = openvino.Core()
        model = core.read_model(self.folder / "network.onnx")
        model.reshape(list(images.shape))
        config = {"INFERENCE_NUM_THREADS": self.threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", config).create_infer_request()
        return lambda: request.infer([images], share_inputs=True)[0]


class MnnPeer(_InferencePeer):
    """MNN."""

    def inference(self, images: Array) -> Callable[[], Array]:
        """See `Peer`."""
        import MNN

        interpreter = MNN.Interpreter(str(self.folder / "network.mnn"))
        config = {"backend": "CPU", "numThread": self.threads, "precision": "high"}
        session = interpreter.createSession(config)
        inputs = interpreter.getSessionInput(session)
        interpreter.resizeTensor(inputs, images.shape)
        interpreter.resizeSession(session)
        layout = MNN.Tensor_DimensionType_Caffe

        def infer() -> Array:
            host = MNN.Tensor(images.shape, MNN.Halide_Type_Float, images, layout)
            inputs.copyFrom(host)
            interpreter.runSession(session)
            return interpreter.getSessionOutput(session).getNumpyData()

        return infer


class NcnnPeer(_InferencePeer):
    """ncnn, one image at a time."""

    def inference(self, images: Array) -> Callable[[], Array]:
        """See `Peer`."""
        import ncnn

        network = ncnn.Net()
        network.opt.num_threads = self.threads
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = False
        network.opt.use_fp16_arithmetic = network.opt.use_bf16_storage = False
        network.load_param(str(self.folder / "network.ncnn.param"))
        network.load_model(str(self.folder / "network.ncnn.bin"))

        def logits(image: Array) -> Array:
            extractor = network.create_extractor()
            extractor.input("in0", ncnn.Mat(image))
            return np.array(extractor.extract("out0")[1])

        return lambda: np.stack([logits(image) for image in images])


OURS = "googlenet_fast"

PEERS: dict[str, type[Peer]] = {
    OURS: OurPeer,
    "PyTorch": TorchNchwPeer,
    "PyTorch channels_last": TorchPeer,
    "torch.compile channels_last": TorchCompilePeer,
    "PaddlePaddle": PaddlePeer,
    "ONNX Runtime": OnnxRuntimePeer,
    "OpenVINO": OpenVinoPeer,
    "MNN": MnnPeer,
    "ncnn": NcnnPeer,
}
"""By name, this package first."""

_MODULES = {
    "PaddlePaddle": ["paddle"],
    "ONNX Runtime": ["onnxruntime", "onnx"],
    "OpenVINO": ["openvino", "onnx"],
    "MNN": ["MNN", "onnx"],
    "ncnn": ["ncnn", "pnnx"],
}
"""Modules that a peer needs, and the conversion of the network for it."""


def installed_peers(*, training: bool) -> list[str]:
    """Return the names of the peers that can run on this machine."""
    return [
        name
        for name, peer in PEERS.items()
        if all(find_spec(module) for module in _MODULES.get(name, []))
        and not (training and issubclass(peer, _InferencePeer))
    ]


def export_network(folder: Path) -> None:
    """Write the network with random weights into `folder`, in every format the peers read."""
    import torch

    torch.manual_seed(0)
    ours = OurPeer.plain(OurPeer.__new__(OurPeer))
    weights = ours.state_dict()
    np.savez(folder / "weights.npz", **{k: v.contiguous().numpy() for k, v in weights.items()})
    network = plain_googlenet(torch_framework())
    network.load_state_dict(weights)
    network.eval()
    images = torch.zeros(1, 3, 224, 224)
    onnx = folder / "network.onnx"
    if find_spec("onnx"):
        torch.onnx.export(
            network,
            (images,),
            onnx,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,
        )
    if "MNN" in installed_peers(training=False):
        # The command mnnconvert installs a package with pip to report its use. This does not.
        convert = "import sys, _tools; _tools.mnnconvert(sys.argv)"
        command: list[str | Path] = [sys.executable, "-c", convert, "-f", "ONNX"]
        command += ["--modelFile", onnx, "--MNNModel", folder / "network.mnn", "--bizCode", "x"]
        subprocess.run(command, check=True, capture_output=True)
    if "ncnn" in installed_peers(training=False):
        import pnnx

        pnnx.export(network, str(folder / "network.pt"), (images,), fp16=False)
