"""Passes over class folders by tf.data, DALI, grain or ffcv, as their own documentation shows them: CASE TREE.

Runs where the case's framework is installed. Each yields shuffled uint8 batches of 64 at 224 px, bilinear, with two
worker threads or, in grain, processes; a rate for each line of input. A pass starts with nothing prepared by the one
before, so that none is handed batches which it did not make in the time that counts.
"""

import os
import sys
from pathlib import Path

from load_rates import BATCH, CROP_AREAS, CROP_RATIOS, SIZE_PX, WORKERS, answer


def _tf_data(tree):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    def load(path):
        encoded = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            area_range=CROP_AREAS,
            aspect_ratio_range=CROP_RATIOS,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        crop = tf.io.decode_and_crop_jpeg(encoded, window, channels=3)
        crop = tf.image.resize(tf.image.random_flip_left_right(crop), (SIZE_PX, SIZE_PX))
        return tf.cast(crop, tf.uint8)

    paths = _paths(tree)
    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).map(load, WORKERS)
    dataset = dataset.batch(BATCH, drop_remainder=True).prefetch(1)
    options = tf.data.Options()
    options.threading.private_threadpool_size = WORKERS
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.with_options(options)
    return lambda _: (len(pixels) for pixels in dataset.as_numpy_iterator())


def _dali(tree):
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def crops():
        encoded, _ = fn.readers.file(file_root=tree, random_shuffle=True, name="files")
        crop = fn.decoders.image_random_crop(encoded, random_area=CROP_AREAS, random_aspect_ratio=CROP_RATIOS)
        crop = fn.resize(crop, resize_x=SIZE_PX, resize_y=SIZE_PX)
        return fn.flip(crop, horizontal=fn.random.coin_flip())

    def one_pass(epoch):
        pipeline = crops(seed=epoch)
        for _ in range(pipeline.reader_meta("files")["epoch_size"] // BATCH):
            (pixels,) = pipeline.run()
            yield len(pixels.as_array())

    return one_pass


def _grain(tree):
    import grain

    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCH)
    workers = grain.MultiprocessingOptions(num_workers=WORKERS)

    def one_pass(epoch):
        dataset = grain.MapDataset.source(_paths(tree)).seed(epoch).shuffle().random_map(_opencv_crop)
        batches = iter(dataset.to_iter_dataset(read).batch(BATCH, drop_remainder=True).mp_prefetch(workers))
        yield from map(len, batches)
        batches.close()

    return one_pass


def _opencv_crop(path, rng):
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    pixels = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    top, left, height, width = _window(*pixels.shape[:2], rng)
    crop = pixels[top : top + height, left : left + width]
    crop = cv2.resize(crop, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


def _window(height, width, rng):
    """Top, left, height and width as RandomResizedCrop draws them."""
    import numpy as np

    for _ in range(10):
        area = height * width * rng.uniform(*CROP_AREAS)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIOS)))
        h, w = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _ffcv(tree):
    os.environ.setdefault("TQDM_DISABLE", "1")
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    decoder = RandomResizedCropRGBImageDecoder((SIZE_PX, SIZE_PX), CROP_AREAS, CROP_RATIOS)
    loader = Loader(
        str(_beton(tree)),
        batch_size=BATCH,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={
            "image": [decoder, RandomHorizontalFlip(), ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return lambda _: (len(pixels) for pixels, _ in loader)


def _beton(tree):
    """The images in ffcv's format, as its ImageNet script writes them for ResNet-50: 500 px, half raw, half JPEG."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Images:
        def __init__(self):
            self.paths = _paths(tree)

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, number):
            with Image.open(self.paths[number]) as image:
                return image.convert("RGB"), 0

    out = Path(tree).with_name("train.beton")
    image = RGBImageField("proportion", max_resolution=500, compress_probability=0.5, jpeg_quality=90)
    writer = DatasetWriter(str(out), {"image": image, "label": IntField()}, num_workers=WORKERS)
    writer.from_indexed_dataset(Images())
    return out


def _paths(tree):
    return sorted(str(path) for path in Path(tree).rglob("*.JPEG"))


CASES = {"tf.data": _tf_data, "dali": _dali, "grain": _grain, "ffcv": _ffcv}

if __name__ == "__main__":
    answer(CASES[sys.argv[1]](sys.argv[2]))
