"""A bundle of three small networks: dark is text, and a strip reads "a" where it is dark and "b" where it is bright."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagstream_ocr.graph import Graph, Node
from tagstream_ocr.wheel import OnnxNetwork, write_bundle
from workers.models.bundle import Bundle
from workers.models.manifest import Provenance

SIDE = 192
CONV = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "pads": [0, 0, 0, 0]}


def network(name: str, *nodes: tuple[Any, ...], **tensors: Tensor) -> OnnxNetwork:
    """Of (operator, inputs, output, attributes); from x to y, as all names with the network's before."""
    made = [
        Node(
            operator=operator,
            inputs=tuple(f"{name}.{each}" for each in inputs.split()),
            output=f"{name}.{out}",
            attributes=given,
        )
        for operator, inputs, out, given in nodes
    ]
    graph = Graph(input=f"{name}.x", output=f"{name}.y", nodes=tuple(made))
    return OnnxNetwork(graph, {f"{name}.{each}": tensor for each, tensor in tensors.items()}, {})


def tiny_networks(characters: str = "a\nb") -> dict[str, OnnxNetwork]:
    """The three networks."""
    every_eighth = {**CONV, "strides": [8, 8]}
    detect = network(
        "detect",
        ("Conv", "x w b", "dark", CONV),
        ("Sigmoid", "dark", "p", {}),
        ("MaxPool", "p", "y", {"kernel_shape": [15, 15], "strides": [1, 1], "pads": [7, 7, 7, 7]}),
        w=torch.full((1, 3, 1, 1), -5.0),
        b=torch.full((1,), -10.0),
    )
    recognise = network(
        "recognise",
        ("Conv", "x w b", "c", every_eighth),
        ("ReduceMean", "c", "m", {"axes": [2], "keepdims": 0}),
        ("Transpose", "m", "t", {"perm": [0, 2, 1]}),
        ("Softmax", "t", "y", {"axis": 2}),
        w=torch.tensor([0.0, -20, 20, 0]).view(4, 1, 1, 1).expand(4, 3, 8, 8) / 192,
        b=torch.tensor([4.0, 0, 0, -20]),
    )
    upright = network(
        "upright",
        ("GlobalAveragePool", "x", "g", {}),
        ("Squeeze", "g", "s", {"axes": [2, 3]}),
        ("MatMul", "s w", "m", {}),
        ("Softmax", "m", "y", {"axis": 1}),
        w=torch.tensor([[0.0, 10], [0, 0], [0, -10]]),
    )
    recognise.metadata["character"] = characters
    return {"detect": detect, "recognise": recognise, "upright": upright}


def tiny_ocr_bundle(out: Path, **changed: OnnxNetwork) -> Bundle:
    """The bundle, with other networks by name."""
    return write_bundle(out, tiny_networks() | changed, Provenance(source="tests", random=True), {}, side=SIDE)
