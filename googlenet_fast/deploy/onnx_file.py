"""ONNX files."""

import json
from collections.abc import Mapping
from typing import Any

import onnxruntime
import torch

from googlenet_fast.deploy.agreement import Run
from googlenet_fast.deploy.graph import BATCH, INPUT, Graph


def onnx_file(graph: Graph, description: Mapping[str, Any]) -> bytes:
    """Return the ONNX file of a graph, with a description in its metadata: key -> JSON."""
    with torch.no_grad():
        program = torch.onnx.export(
            graph,
            (graph.example(),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
            input_names=[INPUT],
            output_names=[graph.output],
            verbose=False,
        )
    assert program is not None
    model = program.model
    for value in (*model.graph, *model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()  # paths and lines of the sources it was traced from
    model.metadata_props.clear()
    model.metadata_props.update({key: json.dumps(value) for key, value in description.items()})
    return program.model_proto.SerializeToString()


def run_onnx(content: bytes) -> Run:
    """Return a function that runs an ONNX file, by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})[0]
