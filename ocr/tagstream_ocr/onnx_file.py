"""Reads the networks' ONNX files, without the package `onnx`.

Each has a known sha256. They are protocol buffers: fields of a number, a wire type and a value. The numbers below are
those of onnx.proto.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tagstream_ocr.graph import Graph, Node

_Message: TypeAlias = Mapping[int, list[Any]]
"""Integers and bytes by the number of their field."""
_TYPES: Final = {1: "<f4", 6: "<i4", 7: "<i8"}
"""Of a tensor's numbers."""
_NONE: Final = np.empty(0)
_LEFT_OUT: Final = {"auto_pad", "ceil_mode", "count_include_pad", "momentum"}
"""Attributes without an effect on these networks, or that others say."""


@dataclass(frozen=True, slots=True)
class OnnxNetwork:
    """A network as a graph of ours.

    Args:
        tensors: by the names that the graph gives them.
        metadata: the file's own texts by name.
    """

    graph: Graph
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_network(content: bytes, prefix: str) -> OnnxNetwork:
    """Read a file's graph.

    It loses its constants, identities and changes of integers' types; biases and GELUs become parts.

    Args:
        prefix: of all names.
    """
    model = _message(memoryview(content))
    graph = _message(model[7][0])
    arrays = dict(map(_tensor, graph[5]))
    same = dict[str, str]()
    nodes = list[Node]()
    for part in map(_message, graph[1]):
        operator, inputs, (output,) = _text(part[4][0]), list(map(_text, part[1])), map(_text, part[2])
        given = dict(map(_attribute, part[5]))
        inputs = [same.get(name, name) for name in inputs]
        if operator == "Constant":
            arrays[output] = given["value"]
        elif operator in ("Identity", "Cast"):
            same[output] = inputs[0]
        elif operator == "Add" and nodes and nodes[-1].operator == "Conv" and arrays.get(inputs[1], _NONE).ndim == 4:
            arrays[inputs[1]] = arrays[inputs[1]].ravel()  # (1, channels, 1, 1): the bias, which is free inside
            with_bias = (*nodes[-1].inputs, f"{prefix}.{inputs[1]}")
            nodes[-1] = nodes[-1].model_copy(update={"inputs": with_bias, "output": f"{prefix}.{output}"})
        elif operator == "Mul" and [node.operator for node in nodes[-4:]] == ["Div", "Erf", "Add", "Mul"]:
            nodes[-4:] = [_node("Gelu", [nodes[-4].inputs[0]], f"{prefix}.{output}", {})]
        else:
            if operator == "Resize":
                given, inputs = {"scales": [int(scale) for scale in arrays[inputs[2]][2:]]}, inputs[:1]
            nodes.append(_node(operator, [f"{prefix}.{name}" for name in inputs], f"{prefix}.{output}", given))
    (given_to,) = {_text(_message(part)[1][0]) for part in graph[11]} - arrays.keys()
    answer = _text(_message(graph[12][0])[1][0])
    read = {name for node in nodes for name in node.inputs}
    tensors = {f"{prefix}.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    return OnnxNetwork(
        Graph(input=f"{prefix}.{given_to}", output=f"{prefix}.{same.get(answer, answer)}", nodes=tuple(nodes)),
        {name: tensor for name, tensor in tensors.items() if name in read},
        {_text(pair[1][0]): _text(pair[2][0]) for pair in map(_message, model[14])},
    )


def _node(operator: str, inputs: list[str], output: str, given: dict[str, Any]) -> Node:
    if given.get("auto_pad") == "SAME_UPPER":  # of stride 1 in these files: an odd row or column comes last
        kernel = given["kernel_shape"]
        given["pads"] = [(size - 1) // 2 for size in kernel] + [size // 2 for size in kernel]
    attributes = {name: value for name, value in given.items() if name not in _LEFT_OUT}
    return Node(operator=operator, inputs=tuple(inputs), output=output, attributes=attributes)


def _attribute(part: memoryview) -> tuple[str, Any]:
    found = _message(part)
    name = _text(found[1][0])
    if found[2]:
        return name, float(np.frombuffer(found[2][0], "<f4")[0])
    if found[4]:
        return name, _text(found[4][0])
    if found[5]:
        return name, _tensor(found[5][0])[1]
    return (name, _integers(found[8])) if found[8] else (name, _integers(found[3])[0])


def _tensor(part: memoryview) -> tuple[str, NDArray[Any]]:
    found = _message(part)
    integers = _integers(found[5] + found[7])
    array = np.array(integers) if integers else np.frombuffer(b"".join(found[4] + found[9]), _TYPES[found[2][0]])
    array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
    return _text(found[8][0]) if found[8] else "", array.reshape(_integers(found[1]))


def _text(part: memoryview) -> str:
    return bytes(part).decode()


def _message(part: memoryview) -> _Message:
    found, place = defaultdict[int, list[Any]](list), 0
    while place < len(part):
        key, place = _integer(part, place)
        if key & 7 == 0:
            value, place = _integer(part, place)
            found[key >> 3].append(value)
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        if length is None:
            length, place = _integer(part, place)
        found[key >> 3].append(part[place : place + length])
        place += length
    return found


def _integers(values: list[Any]) -> list[int]:
    """Signed integers, of which several may be packed as bytes."""
    found = list[int]()
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        place = 0
        while place < len(value):
            one, place = _integer(value, place)
            found.append(one)
    return [one - (1 << 64) if one >> 63 else one for one in found]


def _integer(part: memoryview, place: int) -> tuple[int, int]:
    """A variable-length integer, and where it ends."""
    value = shift = 0
    while True:
        byte = part[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
