"""Reads the networks' ONNX files, without the package `onnx`: a known wheel's, so that nothing is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray
from torch import Tensor

from tagstream_ocr.graph import Graph, Node

_MESSAGES: Final = {
    "Model": "graph 7 Graph, metadata_props 14 Pair*",
    "Pair": "key 1 string, value 2 string",
    "Graph": "node 1 Node*, initializer 5 Tensor*, input 11 Value*, output 12 Value*",
    "Value": "name 1 string",
    "Node": "input 1 string*, output 2 string*, op_type 4 string, attribute 5 Attribute*",
    "Attribute": "name 1 string, f 2 float, i 3 int64, s 4 string, t 5 Tensor, ints 8 int64*, type 20 int32",
    "Tensor": "dims 1 int64*, data_type 2 int32, float_data 4 float*, int32_data 5 int32*, int64_data 7 int64*, "
    "name 8 string, raw_data 9 bytes",
}
"""What these files have of onnx.proto's messages: name, number and type of fields; a star where there may be many."""
_FIELDS: Final = {1: "f", 2: "i", 3: "s", 4: "t", 7: "ints"}
"""Where an attribute of each type has its value."""
_TENSORS: Final = {1: ("<f4", "float_data"), 6: ("<i4", "int32_data"), 7: ("<i8", "int64_data")}
"""Of each type of tensor, its numbers' type in `raw_data`, and where they are if not there."""
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
    model = _model(content)
    graph = model.graph
    arrays = {tensor.name: _array(tensor) for tensor in graph.initializer}
    same = dict[str, str]()
    nodes = list[Node]()
    for part in graph.node:
        operator, (output,) = part.op_type, part.output
        inputs = [same.get(name, name) for name in part.input]
        given = {each.name: getattr(each, _FIELDS[each.type]) for each in part.attribute}
        if operator == "Constant":
            arrays[output] = _array(given["value"])
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
    (given_to,) = {value.name for value in graph.input} - arrays.keys()
    answer = graph.output[0].name
    read = {name for node in nodes for name in node.inputs}
    tensors = {f"{prefix}.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    return OnnxNetwork(
        Graph(input=f"{prefix}.{given_to}", output=f"{prefix}.{same.get(answer, answer)}", nodes=tuple(nodes)),
        {name: tensor for name, tensor in tensors.items() if name in read},
        {pair.key: pair.value for pair in model.metadata_props},
    )


def _model(content: bytes) -> Any:
    """Parse a file by a descriptor of `_MESSAGES`."""
    file = FileDescriptorProto(name="onnx", package="onnx")
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for field in fields.split(", "):
            name, number, kind = field.split()
            one = made.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind.endswith("*"):
                one.label = FieldDescriptorProto.LABEL_REPEATED
            if (kind := kind.rstrip("*")) in _MESSAGES:
                one.type, one.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".onnx.{kind}"
            else:
                one.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("onnx.Model")).FromString(content)


def _node(operator: str, inputs: list[str], output: str, given: dict[str, Any]) -> Node:
    if given.get("auto_pad") == "SAME_UPPER":  # of stride 1 in these files: an odd row or column comes last
        kernel = given["kernel_shape"]
        given["pads"] = [(size - 1) // 2 for size in kernel] + [size // 2 for size in kernel]
    attributes = {name: value for name, value in given.items() if name not in _LEFT_OUT}
    return Node(operator=operator, inputs=tuple(inputs), output=output, attributes=attributes)


def _array(tensor: Any) -> NDArray[Any]:
    kind, field = _TENSORS[tensor.data_type]
    array = np.frombuffer(tensor.raw_data, kind) if tensor.raw_data else np.array(getattr(tensor, field), kind)
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32).reshape(tensor.dims)
