"""What is read from MindSpore's dumps: shortened copies of real ones, and dumps of another form."""

import pytest

from convnext_imagenet.launch.dry_run.kernels import Kernel, TensorType, ascend_kernels, cpu_kernels
from convnext_imagenet.launch.errors import LaunchError

GRAPH = """\
# IR entry: @kernel_graph0
%para1_x: <Tensor[UInt8], (2, 3)> : [2, 3]  :  <UInt8xDefaultFormat[const vector]{2, 3}>  :  IsWeight: false

subgraph @kernel_graph0() {
  %0(CNode_1) = PrimFunc_Cast(%para1_x, I64(43)) primitive_attrs: {stream_id: U32(0)} cnode_attrs: {}
      : (<Tensor[UInt8], (2, 3)>, <Int64, NoShape>) -> (<Tensor[Float32], (2, 3)>)
      : (<UInt8xDefaultFormat[const vector]{2, 3}>, <Int64xDefaultFormat[const vector]{}>) -> \
(<Float32xNCHW[const vector]{2, 3}>)
      : (Tensor, Scalar) -> (Tensor)
      # Fullname with scope: (Default/network-Net/Cast-op0)
      # In file net.py:6, 4~113/    def construct(self, x):/
  %1(CNode_2) = PrimFunc_Reshape(%0, (I64(3), I64(2))) primitive_attrs: {} cnode_attrs: {}
      : (<Tensor[Float32], (2, 3)>, <Tuple[Int64*2], TupleShape(NoShape, NoShape)>) -> (<Tensor[Float32], (3, 2)>)
      : (<Float32xDefaultFormat[const vector]{2, 3}>, <Int64xDefaultFormat[const vector]{}>) -> \
(<Float32xDefaultFormat[const vector]{3, 2}>)
      : (Tensor, Tuple) -> (Tensor)
      # Fullname with scope: (Default/network-Net/Reshape-op0)
  %2(y) = ReverseSequence(%1, Tensor(shape=[16], dtype=Int32, value=[ 0 0
  0 0])) primitive_attrs: {} cnode_attrs: {}
      : (<Tensor[Float32], (3, 2)>, <Tensor[Int32], (3), value=...>) -> (<Tensor[Float32], (3, 2)>)
      : (<Float32xDefaultFormat[const vector]{3, 2}>, <Int32xDefaultFormat[const vector]{3}>) -> \
(<Float32xDefaultFormat[const vector]{3, 2}>)
      : (Tensor, Tensor) -> (Tensor)
      # Fullname with scope: (Default/network-Net/ReverseSequence-op0)
  %3(CNode_4) = MakeTuple(%2) primitive_attrs: {} cnode_attrs: {}
      : (<Tensor[Float32], (3, 2)>) -> (<Tuple[Tensor[Float32]], TupleShape((3, 2))>)
      : (Tensor) -> (TupleUnfold)
      # Fullname with scope: (Default/MakeTuple-op0)
  Return(%3) primitive_attrs: {}
      : (<Tuple[Tensor[Float32]], TupleShape((3, 2))>)
      # Fullname with scope: (Default/Return-op0)
}
"""
COUNTED = "[INFO] DEVICE(1,7f,python):2026 [a.cc:326] PrintOpSelectedNum] 0 1 1 0 0 0 0 0 \n"
LOG = f"""\
[INFO] DEVICE(1,7f,python):2026 [kernel_select_ascend.cc:751] CollectOpSelectedType] Cast select aclnn kernel
[INFO] DEVICE(1,7f,python):2026 [kernel_select_ascend.cc:751] CollectOpSelectedType] ReverseSequence select aclop kernel
[INFO] DEVICE(1,7f,python):2026 [a.cc:318] PrintOpSelectedNum] Number of INTERNAL_KERNEL, OPAPI_KERNEL, ACL_KERNEL:
{COUNTED}"""
NONE: frozenset[str] = frozenset()
# A kernel for the CPU: its outputs are one value of several tensors, and an input that only orders has no type.
CPU_NODE = """
  %0(CNode_1) = Adam(%para1_w, F32(0), %9) primitive_attrs: {} cnode_attrs: {}
      : (<Ref[Tensor[Float32]], (4), ref_key=w>, <Float32, NoShape>, <UMonad, NoShape>) -> (<Tuple[Tensor[Float32]*2]>)
      : (<Float32xDefaultFormat[const vector]{4}>, <Float32xDefaultFormat[const vector]{}>) -> \
(<Float32xDefaultFormat[const vector]{4}>, <Float32xDefaultFormat[const vector]{4}>)
      : (Tensor, Scalar, Unknown) -> (TupleUnfold)
      # Fullname with scope: (Default/Adam-op0)
"""


def test_kernels_have_their_kind_tensors_and_scope() -> None:
    [(cast, reverse)] = ascend_kernels([GRAPH], LOG, NONE)
    floats = TensorType("Float32", (2, 3))
    assert cast == Kernel("Cast", "aclnn", (TensorType("UInt8", (2, 3)),), (floats,), "Default/network-Net/Cast-op0")
    assert (reverse.kind, [tensor.dtype for tensor in reverse.inputs]) == ("aclop", ["Float32", "Int32"])
    assert cast.moved_bytes == 6 + 24


def test_an_old_operator_without_an_ai_core_kernel_runs_on_the_ai_cpu() -> None:
    [(cast, reverse)] = ascend_kernels([GRAPH], LOG, frozenset({"ReverseSequence", "Cast"}))
    assert (cast.kind, reverse.kind) == ("aclnn", "AI CPU")


@pytest.mark.parametrize(
    ("graphs", "log", "words"),
    [
        ([GRAPH], "", "logged 0 graphs and dumped 1"),
        ([], LOG, "logged 1 graphs and dumped 0"),
        ([GRAPH], LOG.replace("ReverseSequence select", "Reverse select"), "logged no kernel for ReverseSequence"),
        ([GRAPH], LOG.replace("0 1 1 0 0", "0 1 2 0 0"), "MindSpore counted the kernels"),
        ([GRAPH.replace("(Tensor, Scalar)", "(Tensor)")], LOG, "dumped 2 types for 1 values"),
    ],
)
def test_dumps_of_another_form_are_refused(graphs: list[str], log: str, words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        ascend_kernels(graphs, log, NONE)


@pytest.mark.parametrize(
    ("tensor", "size"),
    [
        (TensorType("BFloat16", (2, 3)), 12),
        (TensorType("Int64", ()), 8),
        (TensorType("Bool", (5,)), 5),
        (TensorType("Complex64", (0, 7)), 0),
    ],
)
def test_a_tensor_has_its_size(tensor: TensorType, size: int) -> None:
    assert tensor.size_bytes == size


def test_a_type_without_a_known_size_is_named() -> None:
    with pytest.raises(LaunchError, match="takes String, a type whose size is unknown"):
        _ = TensorType("String", (1,)).size_bytes


def test_a_dimension_that_may_change_is_kept() -> None:
    [(cast, _)] = ascend_kernels([GRAPH.replace("{2, 3}", "{-1, 3}")], LOG, NONE)
    assert cast.inputs[0].shape == (-1, 3)


def test_kernels_of_the_cpu_have_no_views_and_all_their_outputs() -> None:
    assert [kernel.primitive for kernel in cpu_kernels(GRAPH)] == ["Cast", "ReverseSequence"]
    [adam] = cpu_kernels(CPU_NODE)
    assert (adam.kind, len(adam.inputs), len(adam.outputs)) == ("CPU", 1, 2)
