"""Which primitives run on the AI CPU, slow cores beside the AI cores: from MindSpore's wheel and a reviewed list.

MindSpore leaves this choice to CANN: an "aclop" kernel runs on an AI core if CANN has one, else on the AI CPU if one is
registered. So an aclop primitive counts as AI CPU when MindSpore registers it there, unless it is on the list below.
"""

import re
from pathlib import Path

# Primitives of our graphs for which CANN 8.1.RC1 brings AI Core kernels for 910B, by the names of the files in
# opp/built-in/op_impl/ai_core/tbe/kernel/config/ascend910b (as the public copy leideng/CANN-8.1.RC1 lists them; some
# names differ: arg_max_v2, concat_d, fill, gather_v2, pack). There is none for ReverseSequence. Types were compared
# only for Argmax (float32 to int64 is there).
AI_CORE = frozenset(
    {
        "AddN",
        "Argmax",
        "Concat",
        "CumSum",
        "FillV2",
        "Gather",
        "OneHot",
        "RealDiv",
        "ReduceMean",
        "ReduceSum",
        "SqrtGrad",
        "Stack",
        "StridedSlice",
        "UnsortedSegmentSum",
    }
)


def ai_cpu_primitives(lib: Path) -> frozenset[str]:
    """Return what the MindSpore whose libraries lie in `lib` registers for the AI CPU, without AI_CORE."""
    folder = lib.parent / "ops" / "_op_impl" / "aicpu"
    texts = (path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    return frozenset(name for text in texts for name in re.findall(r'AiCPURegOp\("(\w+)"\)', text)) - AI_CORE
