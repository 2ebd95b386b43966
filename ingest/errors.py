"""The errors of an ingest, and how they name the cases they are about."""

from collections.abc import Sequence

from convnext_imagenet.base.errors import ExpectedError, FailedError


class IngestError(ExpectedError):
    """A raw tree, a devkit or an option from which no verified records can be made."""


class FailedIngestError(IngestError):
    """The source, a process or the disk failed; finished shards are kept, and the same command resumes."""

    exit_code = FailedError.exit_code


class QuarantineError(IngestError):
    """Every shard is written, but more images are in quarantine than were allowed."""

    exit_code = 3


def first_few(cases: Sequence[str], most: int = 3) -> str:
    """The first cases, separated by commas, with dots when there are more."""
    return ", ".join([*cases[:most], *(["..."] if len(cases) > most else [])])
