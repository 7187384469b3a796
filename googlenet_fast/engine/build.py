"""Build the parts of a run from its configuration: data, network, training step."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from googlenet_fast.capture import Capturer
from googlenet_fast.data import Augmentation, LoaderOptions, Splits, open_splits
from googlenet_fast.engine.candidates import COMPILED, OURS, Switch
from googlenet_fast.engine.config import DataConfig, TrainConfig
from googlenet_fast.engine.distributed import Process
from googlenet_fast.engine.fused_sgd import FusedSGD
from googlenet_fast.engine.gradient_buckets import GradientBuckets
from googlenet_fast.engine.half_weights import HalfWeights
from googlenet_fast.engine.optimizer import build_optimizer
from googlenet_fast.engine.parts import freeze_parts
from googlenet_fast.engine.step import TrainStep
from googlenet_fast.engine.weight_average import WeightAverage
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.precision import amp_dtype
from googlenet_fast.model.preprocessing import Preprocessing, default_resize_size
from googlenet_fast.model.presets import PRESETS
from googlenet_fast.model.weights.load import read_weights
from googlenet_fast.ops.sgd_step import why_not_fused
from googlenet_fast.pretrained import is_remote


def open_data(data: DataConfig) -> Splits:
    """Open the training and validation images of a configuration."""
    return open_splits(
        data.path,
        train_list=data.train_list,
        val_list=data.val_list,
        root=data.root,
        val_root=data.val_root,
        delimiter=data.delimiter,
        relabel=data.relabel,
        class_names=data.class_names,
    )


def with_resize(config: TrainConfig) -> TrainConfig:
    """Return the configuration with a filter for images: its own, or that of its weights.

    Raises:
        GoogLeNetError: the weights cannot be read.
    """
    weights = config.model.weights
    if config.data.resize is not None or weights is None:
        return config
    is_here = is_remote(weights) or Path(weights).is_file()
    if config.resume is not None and not is_here:
        return config
    resize = read_weights(weights).preprocessing.resize
    return replace(config, data=replace(config.data, resize=resize))


def evaluation_preprocessing(
    config: TrainConfig, class_names: tuple[str, ...] | None
) -> Preprocessing:
    """Return how validation images are made."""
    data = config.data
    image_size = data.eval_size or data.image_size
    return Preprocessing(
        image_size=image_size,
        resize_size=data.resize_size or default_resize_size(image_size),
        resize=data.resize or "antialias",
        normalization=PRESETS[config.model.preset].normalization,
        class_names=class_names,
    )


def build_model(config: TrainConfig, splits: Splits, device: torch.device) -> GoogLeNet:
    """Build an initialised network in channels_last on `device`.

    Raises:
        GoogLeNetError: labels beyond the number of classes, an image size or option that the preset
            does not support.
    """
    options = config.model
    num_classes = options.num_classes or splits.train.num_classes
    for split in (splits.train, splits.val):
        split.check_labels(num_classes)
    torch.manual_seed(config.seed)
    model = GoogLeNet(
        options.preset,
        num_classes,
        aux=options.aux,
        dropout=options.dropout,
        lrn=options.lrn,
        init=options.init,
    )
    model.preset.check_input_size(config.data.image_size, options.aux)
    model.preset.check_input_size(config.data.eval_size or config.data.image_size, aux=False)
    if options.sync_bn:
        if not model.preset.batch_norm:
            raise GoogLeNetError(f"--model.sync_bn: preset {options.preset} has no batch norm")
        if device.type == "cpu":
            raise GoogLeNetError(
                "--model.sync_bn: needs GPUs; PyTorch's SyncBatchNorm does not support CPUs"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    freeze_parts(model, options.frozen_parts)
    return model.to(device)


def loader_options(config: TrainConfig, process: Process, *, train: bool) -> LoaderOptions:
    """Return how this rank reads its share of a split, in the dtype of mixed precision."""
    data = config.data
    return LoaderOptions(
        train=train,
        kind=data.loader,
        batch_size=data.batch_size,
        image_size=data.image_size if train else data.eval_size or data.image_size,
        resize_size=None if train else data.resize_size,
        resize=data.resize or "antialias",
        normalization=PRESETS[config.model.preset].normalization,
        device=process.device,
        dtype=amp_dtype(config.amp, process.device) or torch.float32,
        rank=process.rank,
        world_size=process.world_size,
        num_workers=data.num_workers,
        max_pixels=data.max_pixels,
        prefetch=data.prefetch,
        hw_decoder_load=data.hw_decoder_load,
        seed=config.seed,
        augmentation=Augmentation(
            area=(data.min_area, 1.0),
            aspect_ratio=(1 / data.aspect_ratio, data.aspect_ratio),
            flip=data.flip,
        ),
        shuffle=data.shuffle,
        drop_last=data.drop_last,
    )


def build_train_step(
    config: TrainConfig,
    model: GoogLeNet | Switch,
    process: Process,
    capturer: Capturer | None,
    *,
    alone: bool = False,
) -> TrainStep:
    """Build the training step of `model` in all processes, with equal weights.

    Its `model` is a `Switch`, or `HalfWeights` of one.

    Args:
        config: of the run.
        model: the network.
        process: this one.
        capturer: captures the step; None: it is launched by the host.
        alone: the same step, but the other processes take no part in it.
    """
    if isinstance(model, Switch):
        switch, model = model, model.network
    else:
        switch = Switch(model, COMPILED if config.compile else OURS)
    # Buffers differ afterwards. Those of the main process count: evaluation broadcasts them.
    for tensor in () if alone else (*model.parameters(), *model.buffers()):
        process.broadcast_tensor(tensor.detach())
    ema = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
    half = half_weights(config, switch, process)
    buckets = None
    if process.world_size > 1 and not alone:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        buckets = GradientBuckets(trained, process.world_size)
    optimizer = build_optimizer(model, config.optimizer, half)
    if ema is not None and isinstance(optimizer, FusedSGD):
        ema.leave_parameters_to(optimizer)
    return TrainStep(
        switch if half is None else half,
        optimizer,
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
        amp_dtype=amp_dtype(config.amp, process.device),
        loss_scale=config.loss_scale,
        clip_grad_norm=config.optimizer.clip_grad_norm,
        dynamic_loss_scale=config.dynamic_loss_scale,
        ema=ema,
        buckets=buckets,
        capturer=capturer,
    )


def half_weights(config: TrainConfig, switch: Switch, process: Process) -> HalfWeights | None:
    """Return the network with half-precision copies of its weights, where a kernel updates them.

    None: autocast casts the weights in each forward. It sums the gradients of several batches in
    fp32, and so are the gradients of several processes averaged.
    """
    dtype = amp_dtype(config.amp, process.device)
    if dtype is None or config.accumulate > 1 or process.world_size > 1:
        return None
    return HalfWeights(switch, dtype) if why_not_fused(process.device) is None else None
