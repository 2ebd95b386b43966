"""How many processes a job is worth, and what each of them does before its first shard."""

import contextlib
import functools
from dataclasses import replace

from convnext_imagenet.ingest.shards.decode_client import lasting_client
from convnext_imagenet.ingest.shards.image_policy import ImagePolicy
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.records.mindrecord_alone import import_mindrecord_alone

_IMAGES_PER_WORKER = 500  # a process starts in 2 s of a core, in which another one checks and stores about as many
_FEW_IMAGES = 1_000  # reading them back without all of MindSpore takes 1 s more than with it, importing it 2 s


def sized_for(pool: LocalPool, images: int, policy: ImagePolicy) -> LocalPool:
    """Return the pool, with no more processes than pay for `images`, prepared for this number."""
    workers = max(1, min(pool.workers, images // _IMAGES_PER_WORKER))
    return replace(pool, workers=workers, start=functools.partial(_start, policy, images < _FEW_IMAGES))


def _start(policy: ImagePolicy, is_for_few: bool) -> None:
    with contextlib.suppress(OSError):  # the first shard tries again and reports it
        lasting_client(policy)  # the process that decodes starts while this one imports
    if is_for_few:
        import_mindrecord_alone()
