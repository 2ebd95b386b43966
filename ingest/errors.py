"""The errors of an ingest, and how they name the cases they are about."""

from collections.abc import Sequence

from convnext_imagenet.base.errors import ExpectedError, FailedError


class IngestError(ExpectedError):
    """A raw tree, a devkit or an option that does not allow verified records."""


class FailedIngestError(IngestError):
    """The source, a process or the disk gave out half-way; finished shards are kept and the same command goes on."""

    exit_code = FailedError.exit_code


class QuarantineError(IngestError):
    """Every shard is written, but more images are in quarantine than were allowed."""

    exit_code = 3


def first_few(cases: Sequence[str], most: int = 3) -> str:
    """The first cases, separated by commas, with dots when there are more."""
    return ", ".join([*cases[:most], *(["..."] if len(cases) > most else [])])
