"""The errors of an ingest, and how their messages list cases."""

from collections.abc import Sequence

from convnext_imagenet.base.errors import ExpectedError, FailedError


class IngestError(ExpectedError):
    """No verified records can be made from this raw tree, devkit or option."""


class FailedIngestError(IngestError):
    """The source, a process or the disk failed; finished shards are kept, and the same command resumes the ingest."""

    exit_code = FailedError.exit_code


class QuarantineError(IngestError):
    """Every shard is written, but more images are in quarantine than allowed."""

    exit_code = 3  # nothing failed: a person must decide (DECISIONS, 2026-11-23)


def first_few(cases: Sequence[str], most: int = 3) -> str:
    """Return the first cases, separated by commas, with dots when there are more."""
    return ", ".join([*cases[:most], *(["..."] if len(cases) > most else [])])
