"""Graphs: what they compute, and what is refused of another's."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_ocr import graph
from tagstream_ocr.graph import MAX_NODES, Graph, Network, Node
from workers.errors import Misconfigured

CPU = torch.device("cpu")
CONV = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "pads": [0, 0, 0, 0]}


def network(*nodes: tuple[Any, ...], tensors: Mapping[str, Tensor] | None = None, output: str = "y") -> Network:
    """Of (operator, inputs, output, attributes)."""
    made = tuple(
        Node(operator=operator, inputs=tuple(inputs.split()), output=out, attributes=given[0] if given else {})
        for operator, inputs, out, *given in nodes
    )
    return Network("tiny", Graph(input="x", output=output, nodes=made), tensors or {}, CPU, torch.float32)


def image(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) - 0.5


def test_a_convolution_pads_each_side_by_its_own_number() -> None:
    weight, x = image(4, 3, 2, 2), image(1, 3, 5, 6)
    made = network(("Conv", "x w", "y", {**CONV, "pads": [0, 0, 1, 1]}), tensors={"w": weight})
    torch.testing.assert_close(made(x), F.conv2d(F.pad(x, (0, 1, 0, 1)), weight))


def test_the_maximum_of_padded_pixels_is_never_the_padding() -> None:
    x = image(1, 2, 4, 4) - 5
    made = network(("MaxPool", "x", "y", {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 1, 1]}))
    assert made(x).shape == x.shape
    assert made(x).max() == x.max()


def test_a_shape_is_computed_from_the_input() -> None:
    """(n, 3, 4, w) becomes (n, w, 12)."""
    tensors = {
        "w.from": torch.tensor([3]),
        "w.to": torch.tensor([4]),
        "w.axis": torch.tensor([0]),
        "w.keep": torch.tensor([0]),
        "w.rest": torch.tensor([-1]),
    }
    made = network(
        ("Shape", "x", "s"),
        ("Slice", "s w.from w.to w.axis", "width"),
        ("Concat", "w.keep width w.rest", "shape", {"axis": 0}),
        ("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}),
        ("Reshape", "t shape", "y"),
        tensors=tensors,
    )
    x = image(2, 3, 4, 7)
    torch.testing.assert_close(made(x), x.permute(0, 3, 1, 2).reshape(2, 7, 12))


def test_a_value_lives_until_its_last_use() -> None:
    made = network(("Relu", "x", "a"), ("Add", "a x", "b"), ("Mul", "b a", "y"))
    x = image(1, 3)
    torch.testing.assert_close(made(x), (x.relu() + x) * x.relu())


def test_a_constant_number_is_not_rounded_to_the_precision() -> None:
    given = Graph.model_validate(
        {"input": "x", "output": "y", "nodes": [{"operator": "Mul", "inputs": ["x", "c"], "output": "y"}]}
    )
    made = Network("tiny", given, {"c": torch.tensor(1 + 2**-8)}, CPU, torch.bfloat16)
    found = made(torch.tensor([1.5], dtype=torch.bfloat16))
    assert (found.dtype, found.tolist()) == (torch.bfloat16, [1.5078125])


NODE = {"operator": "Relu", "inputs": ["x"], "output": "y"}


@pytest.mark.parametrize(
    "node",
    [
        {**NODE, "operator": "Loop"},
        {**NODE, "inputs": ["x"] * 9},
        {**NODE, "attributes": {"kernel_shape": [17, 1]}},
        {**NODE, "attributes": {"kernel_shape": [1] * 9}},
        {**NODE, "attributes": {"group": 10**6}},
        {**NODE, "attributes": {"alpha": float("inf")}},
        {**NODE, "more": 1},
    ],
)
def test_a_node_beyond_the_bounds_is_refused(node: dict[str, object]) -> None:
    Graph.model_validate({"input": "x", "output": "y", "nodes": [NODE]})
    with pytest.raises(ValidationError):
        Graph.model_validate({"input": "x", "output": "y", "nodes": [node]})


def test_a_graph_of_too_many_nodes_is_refused() -> None:
    with pytest.raises(ValidationError):
        Graph.model_validate({"input": "x", "output": "y", "nodes": [NODE] * (MAX_NODES + 1)})


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        ([("Relu", "x", "y"), ("Relu", "x", "y")], {}),
        ([("Relu", "x", "x")], {}),
        ([("Relu", "x", "z")], {}),
        ([("Relu", "unknown", "y")], {}),
        ([("Add", "x w", "y")], {"w": torch.zeros(1, dtype=torch.float64)}),
    ],
    ids=["twice", "the input", "no output", "unknown", "another type"],
)
def test_a_graph_whose_names_do_not_fit_is_refused(nodes: Any, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(Misconfigured):
        network(*nodes, tensors=tensors)


COLUMN = [("Reshape", "x column", "a"), ("Transpose", "a", "b", {"perm": [1, 0]})]


@pytest.mark.parametrize(
    "nodes",
    [
        [("Concat", "x " * 8, "y", {"axis": 1})],
        [("Resize", "x", "y", {"scales": [6, 6]})],
        [("ConvTranspose", "x one", "y", {"strides": [6, 6], "group": 1})],
        [*COLUMN, ("Add", "a b", "y")],
        [*COLUMN, ("MatMul", "a b", "y")],
        [("Conv", "x many", "y", CONV)],
        [("MaxPool", "x", "y", {"kernel_shape": [1, 1], "strides": [16, 16], "pads": [16, 16, 16, 16]})],
        [*(("Relu", "x", f"v{number}") for number in range(5)), ("Concat", "v0 v1 v2 v3 v4", "y", {"axis": 1})],
    ],
    ids=["beside", "enlarged", "spread", "outer sum", "outer product", "channels", "padding", "alive"],
)
def test_a_graph_that_would_take_too_much_memory_is_refused_before(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"column": torch.tensor([-1, 1]), "one": torch.ones(1, 1, 1, 1), "many": torch.ones(9, 1, 1, 1)}
    made, x = network(*nodes, tensors=tensors), image(1, 1, 16, 16)
    assert made(x).numel() >= 1
    monkeypatch.setattr(graph, "MAX_ELEMENTS", 6 * x.numel())
    with pytest.raises(ValueError, match="at once"):
        made(x)


@pytest.mark.parametrize(
    "node",
    [
        ("Softmax", "x", "y", {"axis": 9}),
        ("Reshape", "x square", "y"),
        ("Conv", "x one", "y"),
        ("Add", "square square", "y"),
    ],
    ids=["axis", "shape", "attributes", "integers"],
)
def test_a_graph_that_fails_is_refused(node: Any) -> None:
    made = network(node, tensors={"square": torch.tensor([7, 7]), "one": torch.ones(1, 1, 1, 1)})
    with pytest.raises(Misconfigured, match="tiny"):
        made.require((1, 1, 8, 8), (1, 1, 8, 8))


def test_an_output_of_another_shape_is_refused() -> None:
    made = network(("Relu", "x", "y"))
    made.require((1, 2), (1, 2))
    with pytest.raises(Misconfigured):
        made.require((1, 2), (1, 3))
