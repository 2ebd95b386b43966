"""How many processes a job is worth, and what each of them does before its first shard."""

import contextlib
import functools
from dataclasses import replace

from convnext_imagenet.ingest.shards.decode_client import lasting_client
from convnext_imagenet.ingest.shards.image_policy import ImagePolicy
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.records.mindrecord_alone import import_mindrecord_alone

_IMAGES_PER_WORKER = 1_000  # a process and its decoder start in 1 s of a core, in which others store about 700


def sized_for(pool: LocalPool, images: int, policy: ImagePolicy) -> LocalPool:
    """Return the pool, with no more processes than pay for `images`, prepared for this number."""
    workers = max(1, min(pool.workers, images // _IMAGES_PER_WORKER))
    return replace(pool, workers=workers, start=functools.partial(_start, policy))


def _start(policy: ImagePolicy) -> None:
    with contextlib.suppress(OSError):  # the first shard tries again and reports it
        lasting_client(policy)  # the process that decodes starts while this one imports
    import_mindrecord_alone()
