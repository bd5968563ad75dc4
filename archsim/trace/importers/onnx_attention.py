"""Finding attention in an ONNX graph: a product, a softmax, a product, and what masks or scales between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from archsim.trace.importers.onnx_graph import OnnxGraph

__all__ = ["Pattern", "Readers", "find_attention", "readers_of"]

_BETWEEN = {"Mul", "Div", "Add", "Sub", "Where", "Cast", "Softmax", "Dropout", "Identity", "Max", "Min"}
_COMPARES = {"Trilu", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
_MAX_STEPS = 16
_MAX_ANCESTORS = 200


@dataclass(frozen=True)
class Readers:
    """Who makes and who reads each array, by index of the node."""

    graph: OnnxGraph
    makers: dict[str, int]
    readers: dict[str, list[int]]

    def only(self, name: str) -> Any | None:
        """The one node that reads `name`, if the model does not also return it."""
        readers = self.readers.get(name, [])
        return self.graph.nodes[readers[0]] if len(readers) == 1 and name not in self.graph.outputs else None


@dataclass(frozen=True)
class Pattern:
    """Attention that ends at one node; the nodes `inside` are part of it."""

    q: str
    k: str
    v: str
    causal: bool
    inside: frozenset[int]


def readers_of(graph: OnnxGraph) -> Readers:
    """The edges of the graph."""
    makers = {name: i for i, node in enumerate(graph.nodes) for name in node.output if name}
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.input:
            readers.setdefault(name, []).append(i)
    return Readers(graph, makers, readers)


def find_attention(graph: OnnxGraph, readers: Readers) -> dict[int, Pattern]:
    """Index of the last node of each attention -> the attention."""
    found = {}
    for node in graph.nodes:
        match = _follow(graph, readers, node) if node.op_type == "MatMul" else None
        if match is not None:
            found[match[0]] = match[1]
    return found


def _follow(graph: OnnxGraph, readers: Readers, scores: Any) -> tuple[int, Pattern] | None:
    """From the product of queries and keys to that of probabilities and values, each step read only by the next."""
    if any(name in graph.weights for name in scores.input) or len(scores.input) != 2:
        return None
    shape = graph.arrays.get(scores.output[0])
    if shape is None or len(shape.shape) < 3:
        return None
    inside, masks, softmax, name = [readers.makers[scores.output[0]]], list[str](), 0, scores.output[0]
    for _ in range(_MAX_STEPS):
        node = readers.only(name)
        if node is None:
            return None
        index = readers.makers[next((out for out in node.output if out), "")] if any(node.output) else -1
        if node.op_type == "MatMul" and softmax == 1 and node.input[0] == name and node.input[1] not in graph.weights:
            values = graph.arrays.get(node.input[1])
            keys = graph.arrays.get(scores.input[1])
            if values is None or keys is None or len(values.shape) < 3 or len(keys.shape) < 3:
                return None
            causal = any(_is_triangular(graph, readers, mask) for mask in masks)
            return index, Pattern(scores.input[0], scores.input[1], node.input[1], causal, frozenset(inside))
        if node.op_type not in _BETWEEN or not node.output[0]:
            return None
        softmax += node.op_type == "Softmax"
        if node.op_type in ("Add", "Where", "Max", "Min") and not softmax:
            masks += [other for other in node.input if other != name]
        inside.append(index)
        name = node.output[0]
    return None


def _is_triangular(graph: OnnxGraph, readers: Readers, mask: str) -> bool:
    """Whether the mask comes from a comparison of positions or from a square constant, not from the input alone."""
    for name in _ancestors(graph, readers, mask):
        maker = readers.makers.get(name)
        if maker is not None and graph.nodes[maker].op_type in _COMPARES:
            return True
        array = graph.arrays.get(name)
        if name in graph.weights and array is not None and len(array.shape) >= 2:
            rows, cols = (axis.number or 0 for axis in array.shape[-2:])
            if rows == cols > 1:
                return True
    return False


def _ancestors(graph: OnnxGraph, readers: Readers, name: str) -> Iterator[str]:
    seen, todo = {name}, [name]
    while todo and len(seen) < _MAX_ANCESTORS:
        here = todo.pop()
        yield here
        maker = readers.makers.get(here)
        if maker is not None:
            fresh = [other for other in graph.nodes[maker].input if other and other not in seen]
            seen.update(fresh)
            todo += fresh
