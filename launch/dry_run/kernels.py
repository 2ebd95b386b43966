"""Reads from MindSpore's dumps which kernels a compiled graph launches, on which tensors, and of which kind.

The dumps are of MindSpore 2.10: the graph after `graph_build` (MS_DEV_DUMP_IR_PASSES), and, for Ascend, log lines of
the submodule DEVICE at level INFO, which name the chosen kind of each operator and count the kernels of each kind. The
counts must agree with the graph, or the dumps are of another form than this program knows. Pure: no MindSpore here.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.launch.errors import LaunchError

ACLNN, ACLOP, AI_CPU, HOST, HCCL = "aclnn", "aclop", "AI CPU", "host", "HCCL"
INTERNAL, ATB, SYMMETRIC = "internal", "ATB", "symmetric memory"
CPU = "CPU"  # every kernel of a graph for the CPU
# MindSpore's counts, in the order of its log line.
_COUNTED = (INTERNAL, ACLNN, ACLOP, ATB, HCCL, HOST, SYMMETRIC)
_LOGGED = {"internal": INTERNAL, "aclnn": ACLNN, "aclop": ACLOP, "atb": ATB, "hccl": HCCL, "host": HOST}
# Nodes that launch nothing: they order or pack others, or give a tensor another shape.
_STRUCTURE = {"Depend", "Load", "MakeTuple", "Return", "TupleGetItem", "UpdateState"}
_VIEWS = {"ExpandDims", "Flatten", "FlattenGrad", "Reshape", "Squeeze"}

_NODE = re.compile(r"  %\d+\([^)]*\) = (?:PrimFunc_)?(\w+)\(")
_DEVICE_TENSOR = re.compile(r"<(\w+?)x[A-Z]\w*\[const vector\]\{([^}]*)\}>")
_SCOPE = "# Fullname with scope: ("
_CHOSEN = re.compile(r"CollectOpSelectedType\] (\w+) select (\w+) kernel")
_COUNTS = re.compile(r"PrintOpSelectedNum\] ((?:\d+ )+)")


@dataclass(frozen=True)
class TensorType:
    """A tensor's type, as MindSpore names it ("BFloat16"), and its shape; -1 is a dimension that may change."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the tensor. Raises LaunchError for a type without a known size."""
        count = 1
        for side in self.shape:
            count *= side
        if self.dtype == "Bool":
            return count
        if not (bits := re.search(r"\d+$", self.dtype)):
            raise LaunchError(f"a kernel takes {self.dtype}, a type whose size is unknown")
        return count * int(bits.group()) // 8


@dataclass(frozen=True)
class Kernel:
    """One kernel of a graph: its primitive, its kind (`ACLNN` and so on), its tensors without scalar attributes.

    `scope` is the path of cells that it was called in; an operator such as + may have that of its first use. The same
    holds for lines of source code, which the dump names, too.
    """

    primitive: str
    kind: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    scope: str = ""

    @property
    def moved_bytes(self) -> int:
        """Return the bytes of all inputs and outputs: what the kernel reads and writes at least once."""
        return sum(tensor.size_bytes for tensor in (*self.inputs, *self.outputs))


@dataclass(frozen=True)
class _Node:
    primitive: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    scope: str


def ascend_kernels(graphs: Sequence[str], log: str, ai_cpu: frozenset[str]) -> list[tuple[Kernel, ...]]:
    """Return the kernels of each graph from the text of its dump, in the order of compilation.

    `log` holds the log lines of the same process, `ai_cpu` the primitives whose aclop kernel runs on the AI CPU. Raises
    LaunchError when graphs and log do not agree.
    """
    chosen = {primitive: _LOGGED.get(kind, kind) for primitive, kind in _CHOSEN.findall(log)}
    counted = list(_logged_counts(log))
    if len(counted) != len(graphs):
        raise LaunchError(f"MindSpore logged {len(counted)} graphs and dumped {len(graphs)}; is it another than 2.10?")
    pairs = zip(graphs, counted, strict=True)
    return [_kernels_of(list(_nodes(text)), chosen, counts, ai_cpu) for text, counts in pairs]


def cpu_kernels(graph: str) -> tuple[Kernel, ...]:
    """Return the kernels of a graph for the CPU from the text of its dump; views are left out."""
    nodes = (node for node in _nodes(graph) if node.primitive not in _VIEWS)
    return tuple(Kernel(node.primitive, CPU, node.inputs, node.outputs, node.scope) for node in nodes)


def _kernels_of(
    nodes: Sequence[_Node], chosen: Mapping[str, str], counts: Mapping[str, int], ai_cpu: frozenset[str]
) -> tuple[Kernel, ...]:
    unknown = {node.primitive for node in nodes} - chosen.keys() - _VIEWS
    if unknown:
        raise LaunchError(f"MindSpore logged no kernel for {', '.join(sorted(unknown))}; is it another than 2.10?")
    launched = [node for node in nodes if node.primitive in chosen]
    found = Counter(chosen[node.primitive] for node in launched)
    if found != Counter({kind: count for kind, count in counts.items() if count}):
        raise LaunchError(f"MindSpore counted the kernels {dict(counts)}, its graph holds {dict(found)}")
    return tuple(
        Kernel(
            node.primitive,
            AI_CPU if chosen[node.primitive] == ACLOP and node.primitive in ai_cpu else chosen[node.primitive],
            node.inputs,
            node.outputs,
            node.scope,
        )
        for node in launched
        if not _is_view(node.primitive, chosen[node.primitive])
    )


def _is_view(primitive: str, kind: str) -> bool:
    """Return whether a node that MindSpore counts on the host only gives part of a tensor another shape or offset."""
    return kind == HOST and primitive.endswith("View")


def _logged_counts(log: str) -> Iterator[dict[str, int]]:
    """Yield the numbers of kernels by kind, graph by graph."""
    for numbers in _COUNTS.findall(log):
        yield dict(zip(_COUNTED, map(int, numbers.split()), strict=False))


def _nodes(text: str) -> Iterator[_Node]:
    """Yield the nodes of a dumped graph that are more than structure."""
    for start in re.split(r"\n(?=  %\d+\()", text)[1:]:
        primitive = _NODE.match(start)
        if primitive is None or primitive.group(1) in _STRUCTURE:
            continue
        _, tensors, kinds, scope = re.findall(r"\n      ([:#] .*)", start)[:4]  # a constant's value may span lines
        inputs, outputs = (
            _tensors(types, kind) for types, kind in zip(tensors.split(" -> "), kinds.split(" -> "), strict=True)
        )
        yield _Node(primitive.group(1), inputs, outputs, scope.removeprefix(_SCOPE).removesuffix(")"))


def _tensors(types: str, kinds: str) -> tuple[TensorType, ...]:
    """Return the tensors among the inputs or the outputs of a node; scalars and tuples of numbers are left out."""
    listed = re.findall(r"\w+", kinds)
    found = _DEVICE_TENSOR.findall(types)
    if listed == ["TupleUnfold"]:  # the outputs of a kernel for the CPU that has several
        listed = ["Tensor"] * len(found)
    while len(listed) > len(found) and listed[-1] == "Unknown":  # what only orders nodes has no type
        listed.pop()
    if len(listed) != len(found):
        raise LaunchError(f"MindSpore dumped {len(found)} types for {len(listed)} values; is it another than 2.10?")
    return tuple(
        TensorType(dtype, tuple(int(side) for side in re.findall(r"-?\d+", shape)))
        for (dtype, shape), kind in zip(found, listed, strict=True)
        if kind == "Tensor"
    )
