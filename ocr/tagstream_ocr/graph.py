"""Runs a bundle's networks: graphs of a few operators, by torch.

Operators and attributes are those of ONNX (opset 11), with GELU beside them. A graph may come from anyone: it is
checked before it runs, and each operation's size before its memory is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from math import prod
from typing import Annotated, Any, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured

MAX_NODES = 2_000
MAX_SMALL = 16
"""Of kernels, strides, padding and axes."""
MAX_ELEMENTS = 2**27
"""Numbers of all values that are alive at once: 512 MiB in fp32."""

Value: TypeAlias = Any
"""A tensor, or the number of a constant without dimensions."""
Attributes: TypeAlias = Mapping[str, Any]


def _padded(given: Attributes, x: Tensor, fill: float = 0.0) -> Tensor:
    above, left, below, right = given.get("pads", [0, 0, 0, 0])
    return F.pad(x, (left, right, above, below), value=fill)


def _conv(given: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    padding = given["pads"]
    if padding[:2] != padding[2:]:
        x, padding = _padded(given, x), [0, 0]
    return F.conv2d(x, weight, bias, given["strides"], padding[:2], given["dilations"], given["group"])


def _resize(given: Attributes, x: Tensor) -> Tensor:
    sizes = [side * scale for side, scale in zip(x.shape[2:], given["scales"], strict=True)]
    return F.interpolate(x, sizes, mode="nearest")


def _reshape(given: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[place] if side == 0 else side for place, side in enumerate(shape.tolist())])


def _slice(given: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, *steps: Tensor) -> Tensor:
    """A part of some axes; steps are 1 in all of our graphs."""
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end),)]
    return x


OPERATORS: Mapping[str, Callable[..., Value]] = {
    "Add": lambda given, x, y: x + y,
    "AveragePool": lambda given, x: F.avg_pool2d(x, given["kernel_shape"], given["strides"]),
    "BatchNormalization": lambda given, x, w, b, mean, var: F.batch_norm(x, mean, var, w, b, eps=given["epsilon"]),
    "Clip": lambda given, x, low, high: x.clamp(low, high),
    "Concat": lambda given, *xs: torch.cat(xs, given["axis"]),
    "Conv": _conv,
    "ConvTranspose": lambda given, x, weight: F.conv_transpose2d(
        x, weight, None, given["strides"], groups=given["group"]
    ),
    "Div": lambda given, x, y: x / y,
    "Erf": lambda given, x: x.erf(),
    "Gelu": lambda given, x: F.gelu(x),
    "GlobalAveragePool": lambda given, x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda given, x: (x * given["alpha"] + given["beta"]).clamp(0, 1),
    "MatMul": lambda given, x, y: x @ y,
    "MaxPool": lambda given, x: F.max_pool2d(_padded(given, x, -torch.inf), given["kernel_shape"], given["strides"]),
    "Mul": lambda given, x, y: x * y,
    "Pow": lambda given, x, y: x**y,
    "ReduceMean": lambda given, x: x.mean(given["axes"], keepdim=bool(given.get("keepdims", 1))),
    "Relu": lambda given, x: x.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda given, x: torch.tensor(x.shape),
    "Sigmoid": lambda given, x: x.sigmoid(),
    "Slice": _slice,
    "Softmax": lambda given, x: x.softmax(given["axis"]),
    "Sqrt": lambda given, x: x.sqrt(),
    "Squeeze": lambda given, x: x.squeeze(tuple(given["axes"])),
    "Sub": lambda given, x, y: x - y,
    "Transpose": lambda given, x: x.permute(*given["perm"]),
    "Unsqueeze": lambda given, x: x.unsqueeze(given["axes"][0]),
}

_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Smalls = Annotated[list[Annotated[int, Field(ge=-MAX_SMALL, le=MAX_SMALL)]], Field(max_length=8)]
_Attribute = Annotated[int | float, Field(ge=-8, le=65_536, allow_inf_nan=False)] | _Smalls


class Node(BaseModel):
    """One operation, with the name of its only output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: Annotated[str, Field(max_length=40, pattern=f"^({'|'.join(OPERATORS)})$")]
    inputs: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=8)]
    output: _Name
    attributes: Annotated[dict[_Name, _Attribute], Field(max_length=8)] = {}


class Graph(BaseModel):
    """Operations in the order in which they run. Names are of values, or of the bundle's tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Name
    output: _Name
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES, fail_fast=True)]


class Network:
    """A graph with the bundle's tensors on one device: float32, or int64, which stay on the host.

    Raises:
        Misconfigured: a name is unknown or defined twice, or a tensor has another type.
    """

    def __init__(
        self, name: str, graph: Graph, tensors: Mapping[str, Tensor], where: torch.device, dtype: torch.dtype
    ) -> None:
        self._name, self._graph, self._where, self._dtype = name, graph, where, dtype
        self._constants: dict[str, Value] = {}
        self._last_used: dict[str, int] = {}
        values = {graph.input}
        for number, node in enumerate(graph.nodes):
            for read in node.inputs:
                self._last_used[read] = number
                if read not in values | self._constants.keys():
                    self._constants[read] = self._constant(read, tensors)
            if node.output in values | self._constants.keys():
                raise Misconfigured(f"{name}: the graph defines {node.output!r} twice.")
            values.add(node.output)
        if graph.output not in values:
            raise Misconfigured(f"{name}: the graph never computes its output, {graph.output!r}.")
        self._last_used[graph.output] = len(graph.nodes)

    def __call__(self, given: Tensor) -> Tensor:
        """The output for one input. Raises ValueError: the graph would need more memory than any of ours."""
        values: dict[str, Value] = {self._graph.input: given}
        for number, node in enumerate(self._graph.nodes):
            inputs = [self._constants[name] if name in self._constants else values[name] for name in node.inputs]
            alive = sum(value.numel() for value in values.values())
            if (elements := alive + _elements(node, inputs)) > MAX_ELEMENTS:
                raise ValueError(f"{elements:,} numbers at once, where {MAX_ELEMENTS:,} are allowed")
            values[node.output] = OPERATORS[node.operator](node.attributes, *inputs)
            for name in {node.output, *node.inputs} & values.keys():
                if self._last_used.get(name, 0) <= number:
                    del values[name]
        return torch.as_tensor(values[self._graph.output])

    def require(self, given: Sequence[int], wanted: Sequence[int]) -> None:
        """Run on zeros of a shape. Raises Misconfigured: it fails, or its output has another shape than is wanted."""
        try:
            found = self(torch.zeros(*given, device=self._where, dtype=self._dtype)).shape
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise Misconfigured(f"{self._name}: its graph does not run: {reason}.") from error
        if tuple(found) != tuple(wanted):
            raise Misconfigured(f"{self._name}: its graph gives {tuple(found)} where {tuple(wanted)} is needed.")

    def _constant(self, name: str, tensors: Mapping[str, Tensor]) -> Value:
        found = tensors.get(name)
        if found is None or found.dtype not in (torch.float32, torch.int64):
            raise Misconfigured(f"{self._name}: the bundle has no tensor {name!r}, or not in float32 or int64.")
        if found.dim() == 0 or found.dtype == torch.int64:
            return found if found.dim() else found.item()
        layout = torch.channels_last if found.dim() == 4 else torch.contiguous_format
        return found.to(self._where, self._dtype, memory_format=layout)


def _elements(node: Node, inputs: Sequence[Value]) -> int:
    """The most numbers that an operation makes, a padded input among them."""
    given: Attributes = node.attributes
    x, *others = (each for each in inputs if isinstance(each, Tensor))
    match node.operator:
        case "Add" | "Sub" | "Mul" | "Div" | "Pow":
            return _together(x.shape, *(each.shape for each in others))
        case "Concat":
            return sum(each.numel() for each in (x, *others))
        case "MatMul":
            several = _together(x.shape[:-2], *(each.shape[:-2] for each in others))
            return several * x.shape[-2] * others[0].shape[-1]
        case "Resize":
            return x.numel() * prod(given["scales"])
        case "Conv" | "ConvTranspose" | "MaxPool":
            above, left, below, right = given.get("pads", [0, 0, 0, 0])
            sides = [x.shape[2] + above + below, x.shape[3] + left + right]
            channels = max([x.shape[1], *(each.shape[0] for each in others)])
            if node.operator == "ConvTranspose":
                sides = [side * step + MAX_SMALL for side, step in zip(sides, given["strides"], strict=True)]
                channels = others[0].shape[1] * given["group"]
            return int(x.shape[0] * channels * prod(sides))
    return x.numel()


def _together(*shapes: Sequence[int]) -> int:
    """The numbers of tensors that are spread over each other."""
    return prod(map(max, zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)))
