"""Which primitives run on the AI CPU, slow cores beside the AI cores: from MindSpore's wheel and a reviewed list.

MindSpore leaves this choice to CANN: an "aclop" kernel runs on an AI core if CANN has one, else on the AI CPU if one is
registered. So an aclop primitive counts as AI CPU when MindSpore registers it there, unless it is on the list below.
"""

import re
from pathlib import Path

# Primitives of our graphs, and near ones, for which CANN 8.1 has an AI Core kernel on 910B in float16, float32 and
# int32. From the list of AI Core operators of CANN 8.1.RC1, opp/built-in/op_impl/ai_core/tbe/config/ascend910b.
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
