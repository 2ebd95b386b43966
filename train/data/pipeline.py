"""Turns records into uint8 batches on the host: read, decode, crop, resize.

One thread reads rows in the order of the epoch, others decode and resize them straight into their batch (both release
the interpreter lock), a few batches ahead of the device. The content of a batch depends only on (seed, epoch, step),
never on the number of workers, so a run can resume at any step of any epoch.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from convnext_imagenet.base.wording import as_word
from convnext_imagenet.launch.ranks.rank import SINGLE_RANK, Rank
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.reader import Split
from convnext_imagenet.train.augment.device import DeviceDraws, device_draws
from convnext_imagenet.train.augment.host import training_pixels
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import StepPlan, divide_batch, local_positions
from convnext_imagenet.train.data.order import draw_ids, training_order
from convnext_imagenet.train.errors import TrainError

_BATCHES_AHEAD = 2  # not more: 4096 rows of 224 px take 588 MiB
_IMAGES_A_TASK = 8  # one image per call left 11 to 14 % of the cores idle (DECISIONS, 2026-11-24)
_POLL_SECONDS = 0.1  # how late a stop signal may be noticed


@dataclass(frozen=True)
class Batch:
    """One micro-batch: uint8 pixels (N, S, S, 3), int32 labels (N,), int64 sample ids (N,), and the device's draws."""

    pixels: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    draws: DeviceDraws


@dataclass
class StageTimes:
    """Seconds that the stages of the pipeline have worked: the reader, and all decoders together."""

    read_s: float = 0.0
    decode_s: float = 0.0
    decoders: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_decoding(self, seconds: float) -> None:
        """Add the seconds of a task; callable from any thread."""
        with self._lock:
            self.decode_s += seconds

    def slowest(self) -> str:
        """Return the name of the stage that is the bottleneck."""
        return "reading" if self.read_s > self.decode_s / self.decoders else "decoding and resizing"


def batches(
    split: Split,
    config: Config,
    plan: StepPlan,
    epoch: int,
    workers: int,
    first_step: int = 0,
    drop_path_rates: tuple[float, ...] = (),
    rank: Rank = SINGLE_RANK,
    times: StageTimes | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[Batch]:
    """Yield the micro-batches of `epoch` from step `first_step` on, per step as many as `divide_batch` says.

    Only the share of `rank` is made of each global batch. `workers` threads decode. While the caller waits, `on_wait`
    is called several times a second; an exception that it raises ends the pipeline. Raises TrainError for a row that
    does not decode.
    """
    times = times or StageTimes()
    times.decoders = workers
    planned = _plan_batches(split, config, plan, epoch, first_step, rank)
    producer = _Producer(split, config, epoch, planned, drop_path_rates, workers, times)
    try:
        while (batch := producer.take(on_wait)) is not None:
            yield batch
    except BadImage as error:
        raise TrainError(
            f"{split.folder}: an image does not decode ({error}); "
            f"run `convnext-records verify {as_word(split.folder.parent)}`, then repair the records as it says"
        ) from None
    finally:
        producer.close()


@dataclass(frozen=True)
class _PlannedBatch:
    """The rows of one micro-batch of global batch `step`, in its order, and how often each came before in the epoch."""

    step: int
    rows: np.ndarray
    occurrences: np.ndarray


def _plan_batches(
    split: Split, config: Config, plan: StepPlan, epoch: int, first_step: int, rank: Rank
) -> list[_PlannedBatch]:
    size, count = plan.global_batch_size, divide_batch(config, rank.world).micro_batches
    order = training_order(split, config, epoch)
    first = rank.number * count
    positions = [local_positions(size, part, rank.world * count) for part in range(first, first + count)]
    steps = range(first_step, plan.steps_per_epoch)
    places = [(step, step * size + own) for step in steps for own in positions]
    return [_PlannedBatch(step, order.rows[at], order.occurrences[at]) for step, at in places]


class _Producer:
    """The thread that reads, the pool that decodes, and the short queue of batches between them and the caller."""

    def __init__(
        self,
        split: Split,
        config: Config,
        epoch: int,
        planned: list[_PlannedBatch],
        drop_path_rates: tuple[float, ...],
        workers: int,
        times: StageTimes,
    ) -> None:
        self._split, self._config, self._epoch, self._planned = split, config, epoch, planned
        self._rates, self._times = drop_path_rates, times
        self._queue: queue.Queue = queue.Queue(maxsize=_BATCHES_AHEAD)
        self._is_closed = threading.Event()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._produce, name="read", daemon=True)
        self._thread.start()

    def take(self, on_wait: Callable[[], None]) -> Batch | None:
        """Return the next batch, or None after the last. Raises what a thread has raised."""
        item = _poll(partial(self._queue.get, timeout=_POLL_SECONDS), queue.Empty, on_wait)
        if item is None:
            return None
        if isinstance(item, BaseException):
            raise item
        batch, futures = item
        for future in futures:
            _poll(partial(future.result, timeout=_POLL_SECONDS), TimeoutError, on_wait)
        return batch

    def close(self) -> None:
        """Stop the reader and the decoders, whatever they are doing."""
        self._is_closed.set()
        self._pool.shutdown(cancel_futures=True)
        while self._thread.is_alive():
            with self._queue.mutex:  # the reader may be blocked on a full queue
                self._queue.queue.clear()
                self._queue.not_full.notify_all()
            self._thread.join(_POLL_SECONDS)

    def _produce(self) -> None:
        try:
            rows = self._read()
            for planned in self._planned:
                if (started := self._start(planned, rows)) is None:
                    return
                self._queue.put(started)
            self._queue.put(None)
        except BaseException as error:  # handed over to the caller's thread
            if not self._is_closed.is_set():
                self._queue.put(error)

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the rows of all batches in order, as MindSpore reads them."""
        if not self._planned:
            return
        order = np.concatenate([planned.rows for planned in self._planned])
        columns = ["image", "label", "sample_id"]
        dataset = self._split.dataset(order, columns)
        yield from dataset.create_tuple_iterator(columns, num_epochs=1, output_numpy=True)

    def _start(self, planned: _PlannedBatch, rows: Iterator) -> tuple[Batch, list[Future]] | None:
        """Read a batch's rows and submit them for decoding; return None when the pipeline was closed meanwhile."""
        count, size_px = len(planned.rows), self._config.data.size_px
        pixels = np.empty((count, size_px, size_px, 3), np.uint8)
        labels, sample_ids = np.empty(count, np.int32), np.empty(count, np.int64)
        futures = []
        for first in range(0, count, _IMAGES_A_TASK):
            if self._is_closed.is_set():
                return None
            begin = time.perf_counter()
            task = slice(first, min(first + _IMAGES_A_TASK, count))
            images = []
            for n in range(task.start, task.stop):
                image, labels[n], sample_ids[n] = next(rows)
                images.append(image)
            self._times.read_s += time.perf_counter() - begin
            ids = draw_ids(sample_ids[task], planned.occurrences[task])
            futures.append(self._pool.submit(self._decode, images, ids, pixels[task]))
        ids = draw_ids(sample_ids, planned.occurrences)
        draws = device_draws(self._config, self._epoch, planned.step, ids, self._rates)
        return Batch(pixels, labels, sample_ids, draws), futures

    def _decode(self, images: list[np.ndarray], ids: np.ndarray, out: np.ndarray) -> None:
        begin = time.perf_counter()
        training_pixels([image.tobytes() for image in images], self._config, self._epoch, ids, out)
        self._times.add_decoding(time.perf_counter() - begin)


def _poll(get: Callable[[], Any], not_yet: type[Exception], on_wait: Callable[[], None]) -> Any:
    """Call `on_wait` and `get` until `get` does not raise `not_yet`, and return its result."""
    while True:
        on_wait()
        try:
            return get()
        except not_yet:
            continue
