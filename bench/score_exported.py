"""Scores a folder of JPEGs by an exported network, with OpenCV in threads: CASE IMAGES OUT.

ConvNeXt-T at 224 px from timm, float32, random weights; writes the files' names and top-5 as Parquet.
"""

import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from score_passes import BATCH, MEAN, RESIZE_PX, SIZE_PX, STD, TOPK, WORKERS, answer, image_paths, write_parquet

_END = None


def _exported(path):
    import timm
    import torch

    network = timm.create_model("convnext_tiny", exportable=True).eval()
    sample = torch.randn(BATCH, 3, SIZE_PX, SIZE_PX)
    torch.onnx.export(network, (sample,), str(path), dynamo=False, input_names=["x"])
    return str(path)


def _onnxruntime(images, out):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = WORKERS
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning threads would take the cores from decoding
    model = _exported(out / "onnxruntime.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return _by_threads(images, lambda x_NCHW: session.run(None, {"x": x_NCHW})[0])


def _openvino(images, out):
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": WORKERS, "NUM_STREAMS": 1}
    model = _exported(out / "openvino.onnx")
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return _by_threads(images, lambda x_NCHW: compiled(x_NCHW)[0])


def _by_threads(images, network):
    """Return a pass in which two threads of OpenCV fill batches, at most two ahead of the network."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)

    def one_pass(target, watch):
        watch.start()
        paths, ahead = image_paths(images), queue.Queue(maxsize=2)
        threading.Thread(target=_fill, args=(paths, ahead), daemon=True).start()
        indices, scores = [], []
        while (batch := ahead.get()) is not _END:
            x_NCHW, used = batch
            logits_NK = network(x_NCHW)[:used]
            best_Nk = np.argsort(-logits_NK, axis=1)[:, :TOPK]
            chances_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
            chances_NK /= chances_NK.sum(axis=1, keepdims=True)
            indices.extend(best_Nk)
            scores.extend(np.take_along_axis(chances_NK, best_Nk, axis=1))
        write_parquet(target, [str(path) for path in paths], indices, scores)
        watch.stop()
        return len(paths)

    return one_pass


def _fill(paths, ahead):
    import numpy as np

    with ThreadPoolExecutor(WORKERS) as pool:
        for first in range(0, len(paths), BATCH):
            x_NCHW, chunk = np.zeros((BATCH, 3, SIZE_PX, SIZE_PX), np.float32), paths[first : first + BATCH]
            list(pool.map(_read, chunk, x_NCHW))
            ahead.put((x_NCHW, len(chunk)))
    ahead.put(_END)


def _read(path, x_CHW):
    """Resize the short side to 256 px and crop the centre, without antialiasing, which OpenCV's cubic filter lacks."""
    import cv2
    import numpy as np

    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    height, width = pixels.shape[:2]
    scale = RESIZE_PX / min(height, width)
    size = max(RESIZE_PX, int(width * scale)), max(RESIZE_PX, int(height * scale))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    left, top = (size[0] - SIZE_PX) // 2, (size[1] - SIZE_PX) // 2
    crop = pixels[top : top + SIZE_PX, left : left + SIZE_PX]
    crop = (crop.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    x_CHW[...] = crop.transpose(2, 0, 1)


CASES = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def main(case, images, out):
    """Answer each line of standard input with the rates of one pass."""
    answer(CASES[case](images, Path(out)), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
