"""Scores a folder of JPEGs by programs for PyTorch, each as its documentation shows it: CASE IMAGES OUT.

ConvNeXt-T at 224 px, float32, random weights; all write the files' names and top-5 as Parquet. Each case needs what its
function imports.
"""

import functools
import sys
import threading
import time
from pathlib import Path

from score_passes import BATCH, MEAN, RESIZE_PX, SIZE_PX, STD, TOPK, WORKERS, answer, image_paths, write_parquet


def _timm_network():
    import timm
    import torch

    return timm.create_model("convnext_tiny").eval().to(memory_format=torch.channels_last)


def _best(network, pixels):
    import torch

    with torch.inference_mode():
        scores, indices = network(pixels).softmax(-1).topk(TOPK)
    return indices.numpy(), scores.numpy()


def _timm(images):
    import numpy as np
    import torch
    from timm.data import create_dataset, create_loader

    network = _timm_network()

    def one_pass(target, watch):
        watch.start()
        data = create_dataset("", images)
        loader = create_loader(
            data, (3, SIZE_PX, SIZE_PX), BATCH, use_prefetcher=False, interpolation="bicubic", mean=MEAN, std=STD,
            num_workers=WORKERS, crop_pct=SIZE_PX / RESIZE_PX, device=torch.device("cpu"),
        )  # fmt: skip
        answers = [_best(network, pixels.contiguous(memory_format=torch.channels_last)) for pixels, _ in loader]
        write_parquet(target, data.filenames(basename=True), *map(np.concatenate, zip(*answers, strict=True)))
        watch.stop()
        return len(data)

    return one_pass


def _transformers(images):
    from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor, pipeline

    processor = ConvNextImageProcessor(size={"shortest_edge": SIZE_PX}, crop_pct=SIZE_PX / RESIZE_PX)
    network = ConvNextForImageClassification(ConvNextConfig(num_labels=1000)).eval()
    score = pipeline("image-classification", model=network, image_processor=processor, device="cpu")

    def one_pass(target, watch):
        watch.start()
        paths = [str(path) for path in image_paths(images)]
        answers = score(paths, batch_size=BATCH, num_workers=WORKERS, top_k=TOPK)
        indices = [[network.config.label2id[guess["label"]] for guess in answer] for answer in answers]
        write_parquet(target, paths, indices, [[guess["score"] for guess in answer] for answer in answers])
        watch.stop()
        return len(paths)

    return one_pass


class RayNetwork:
    """The actor that scores batches; it creates the file `ready` when its network is loaded."""

    def __init__(self, ready):
        import torch

        torch.set_num_threads(WORKERS)
        self.network = _timm_network()
        ready.touch()

    def __call__(self, batch):
        import torch

        pixels = torch.from_numpy(batch["pixels"]).contiguous(memory_format=torch.channels_last)
        indices, scores = _best(self.network, pixels)
        return {"source": batch["path"], "class_index": indices, "score": scores}


@functools.cache
def _timm_transform():
    from timm.data.transforms_factory import transforms_imagenet_eval

    return transforms_imagenet_eval(
        SIZE_PX, crop_pct=SIZE_PX / RESIZE_PX, interpolation="bicubic", use_prefetcher=False, mean=MEAN, std=STD
    )


def _ray_row(row):
    from PIL import Image

    return {"path": row["path"], "pixels": _timm_transform()(Image.fromarray(row["image"])).numpy()}


def _ray(images):
    """Return a pass whose clock starts when the actor has its network; images decoded earlier cost no time."""
    import ray

    def one_pass(target, watch):
        ready = target.with_suffix(".ready")
        environment = {"PYTHONPATH": str(Path(__file__).parent)}
        ray.init(
            "local",
            num_cpus=WORKERS,
            log_to_driver=False,
            include_dashboard=False,
            runtime_env={"env_vars": environment},
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        threading.Thread(target=_start_at, args=(ready, watch), daemon=True).start()
        one = ray.data.ActorPoolStrategy(size=1)
        data = ray.data.read_images(images, include_paths=True, mode="RGB").map(_ray_row)
        data = data.map_batches(RayNetwork, batch_size=BATCH, compute=one, num_cpus=1, fn_constructor_args=[ready])
        data.write_parquet(str(target))
        watch.stop()
        count = ray.data.read_parquet(str(target)).count()
        ray.shutdown()
        return count

    return one_pass


def _start_at(file, watch):
    while not file.exists():
        time.sleep(0.02)
    watch.start()


CASES = {
    "timm": _timm,
    "transformers": _transformers,
    "ray": _ray,
}


def main(case, images, out):
    """Answer each line of standard input with the rates of one pass."""
    import torch

    torch.set_num_threads(WORKERS)
    answer(CASES[case](images), Path(out))


if __name__ == "__main__":
    import score_peers  # by its name, so that Ray's workers can import it

    score_peers.main(*sys.argv[1:])
