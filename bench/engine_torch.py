"""ConvNeXt-T from transformers as a process of its own: PyTorch, onnxruntime or OpenVINO, see ENGINES in bench_model.

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
    """PyTorch, in the usual memory format or in channels_last, in float32 or with autocast to bfloat16."""

    def __init__(self, memory_format: torch.memory_format, is_low: bool) -> None:
        self.format = memory_format
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=is_low)
        self.network = Logits().to(memory_format=memory_format)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.05)

    def pixels(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, 3, 224, 224).contiguous(memory_format=self.format)

    def forward(self, batch: int) -> float:
        self.network.eval()
        x = self.pixels(batch)
        begin = time.perf_counter()
        with torch.inference_mode(), self.autocast:
            self.network(x)
        return time.perf_counter() - begin

    def train(self, batch: int) -> float:
        self.network.train()
        x, labels = self.pixels(batch), torch.randint(0, 1000, (batch,))
        begin = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss = torch.nn.functional.cross_entropy(self.network(x).float(), labels, label_smoothing=0.1)
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - begin


class Exported:
    """onnxruntime or OpenVINO on the exported network, as many threads as cores.

    int8 is dynamic for onnxruntime, and for OpenVINO by NNCF, calibrated on noise: enough for time, not for accuracy.
    """

    def __init__(self, kind: str, path: Path) -> None:
        network = Logits().eval()
        sample = torch.randn(2, 3, 224, 224)
        torch.onnx.export(network, (sample,), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
        self.run = self._onnxruntime(path, kind) if kind.startswith("onnxruntime") else self._openvino(path, kind)

    def forward(self, batch: int) -> float:
        x = torch.randn(batch, 3, 224, 224).numpy()
        begin = time.perf_counter()
        self.run(x)
        return time.perf_counter() - begin

    @staticmethod
    def _onnxruntime(path: Path, kind: str):
        import onnxruntime

        if kind.endswith("int8"):
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(path, path.with_suffix(".int8.onnx"))
            path = path.with_suffix(".int8.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})

    @staticmethod
    def _openvino(path: Path, kind: str):
        import openvino

        core, compiled = openvino.Core(), {}
        precision = "bf16" if kind.endswith("bfloat16") else "f32"
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}

        def model_for(batch: int):
            model = core.read_model(str(path))
            model.reshape([batch, 3, 224, 224])
            if not kind.endswith("int8"):
                return model
            import nncf

            return nncf.quantize(model, nncf.Dataset([torch.randn(batch, 3, 224, 224).numpy() for _ in range(2)]))

        def run(x):
            if len(x) not in compiled:
                model = model_for(len(x))
                compiled[len(x)] = core.compile_model(model, "CPU", settings)
            return compiled[len(x)](x)

        return run


def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(THREADS)
    if KIND.startswith("torch"):
        is_low = KIND.endswith("bfloat16")
        is_last = is_low or KIND.endswith("channels-last")
        engine = Eager(torch.channels_last if is_last else torch.contiguous_format, is_low)
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
