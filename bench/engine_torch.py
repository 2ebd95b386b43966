"""ConvNeXt-T from transformers as a process of its own: torch-eager, torch-channels-last, onnxruntime, openvino.

The same lines and answers as engine_mindspore.py. A training step is forward, loss, gradients and AdamW.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import ConvNextConfig, ConvNextForImageClassification

KIND = sys.argv[1]
THREADS = len(os.sched_getaffinity(0))


class Logits(torch.nn.Module):
    """Pixels to logits, without the wrapper's dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ConvNextForImageClassification(ConvNextConfig(num_labels=1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=x).logits


class Eager:
    """PyTorch, in the usual memory format or in channels_last."""

    def __init__(self, memory_format: torch.memory_format) -> None:
        self.format = memory_format
        self.network = Logits().to(memory_format=memory_format)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.05)

    def pixels(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, 3, 224, 224).contiguous(memory_format=self.format)

    def forward(self, batch: int) -> float:
        self.network.eval()
        x = self.pixels(batch)
        begin = time.perf_counter()
        with torch.inference_mode():
            self.network(x)
        return time.perf_counter() - begin

    def train(self, batch: int) -> float:
        self.network.train()
        x, labels = self.pixels(batch), torch.randint(0, 1000, (batch,))
        begin = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(self.network(x), labels, label_smoothing=0.1).backward()
        self.optimizer.step()
        return time.perf_counter() - begin


class Exported:
    """onnxruntime or OpenVINO on the exported network, float32, as many threads as cores."""

    def __init__(self, kind: str, path: Path) -> None:
        network = Logits().eval()
        sample = torch.randn(2, 3, 224, 224)
        torch.onnx.export(network, (sample,), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
        self.run = self._onnxruntime(path) if kind == "onnxruntime" else self._openvino(path)

    def forward(self, batch: int) -> float:
        x = torch.randn(batch, 3, 224, 224).numpy()
        begin = time.perf_counter()
        self.run(x)
        return time.perf_counter() - begin

    @staticmethod
    def _onnxruntime(path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})

    @staticmethod
    def _openvino(path: Path):
        import openvino

        core, compiled = openvino.Core(), {}
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}

        def run(x):
            if len(x) not in compiled:
                model = core.read_model(str(path))
                model.reshape([len(x), 3, 224, 224])
                compiled[len(x)] = core.compile_model(model, "CPU", settings)
            return compiled[len(x)](x)

        return run


def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(THREADS)
    if KIND.startswith("torch"):
        engine = Eager(torch.channels_last if KIND.endswith("channels-last") else torch.contiguous_format)
    else:
        engine = Exported(KIND, Path(tempfile.mkdtemp()) / "convnext.onnx")
    for line in sys.stdin:
        what, batch = line.split()
        if what == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
        else:
            print(getattr(engine, what)(int(batch)), flush=True)


if __name__ == "__main__":
    main()
