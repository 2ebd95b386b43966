"""How many images may be bad, and what is said when there are more. Decodes nothing."""

from collections.abc import Sequence
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError, QuarantineError, first_few
from convnext_imagenet.ingest.shards.reencode import CONVERTED_KINDS
from convnext_imagenet.records.quarantine import Quarantined
from convnext_imagenet.records.schema import QUARANTINE_FILE

_ALLOWED_SHARE = 0.01  # of a subset; the official set must be complete (DECISIONS, 2026-11-23)


def allowed_number(option: int | None, class_rule: str, images: int) -> int:
    """Return how many images may be bad: the option, else 0 of the official set and 1 % of any other, at least 1."""
    if option is not None:
        return option
    return 0 if class_rule == "all" else max(1, int(images * _ALLOWED_SHARE))


def refuse_too_many(entries: Sequence[Quarantined], allowed: int, out: Path) -> None:
    """Raise QuarantineError when more images are bad than `allowed`."""
    if len(entries) <= allowed:
        return
    cases = [f"{entry.path} ({entry.reason})" for entry in sorted(entries)]
    raise QuarantineError(
        f"too many bad images: {len(entries)} in quarantine, {allowed} allowed: {first_few(cases, most=2)}, see "
        f"{out / QUARANTINE_FILE}; to finish without them, run the same command with --max-quarantine {len(entries)}; "
        f"else {_replace(entries)}"
    )


def refuse_none_stored(split: str, entries: Sequence[Quarantined]) -> None:
    """Raise IngestError: these are all images of a split, and none is stored."""
    first = min(entries)
    raise IngestError(
        f"{split}/: no image can be stored, {len(entries):,} are in quarantine, such as {first.path} "
        f"({first.reason}: {first.detail}); {_replace(entries)}"
    )


def _replace(entries: Sequence[Quarantined]) -> str:
    is_convertible = any(
        entry.reason == "unsupported" and entry.detail.partition(",")[0] in CONVERTED_KINDS for entry in entries
    )
    kinds = f"{', '.join(CONVERTED_KINDS[:-1])} and {CONVERTED_KINDS[-1]}"
    convert = f" (--convert stores {kinds} there, too)" if is_convertible else ""
    return f"replace them and build into another directory{convert}"
