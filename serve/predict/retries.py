"""Parts that are made again because some of their inputs could not be read: which, why, and what they held before.

`_retries.json` lists every retry, from 1. A part belongs to a retry if its receipt names the number of the last one
that lists it. So a retry that was killed resumes, and makes each of its parts once.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from convnext_imagenet.serve.predict.place import Place

Retries = list[dict[str, Any]]
_FILE = "retries.json"


def read_retries(out: Place) -> Retries:
    """Return all retries that were begun in a PREDICTIONS directory, the oldest first."""
    return out.read(_FILE) or []


def write_retries(out: Place, retries: Retries) -> None:
    """Store the list of retries. Raises OSError."""
    out.write(_FILE, retries)


def retry_of(retries: Sequence[Mapping[str, Any]], index: int) -> int:
    """Return the number of the last retry that makes part `index`; 0 if none does."""
    numbers = [retry["number"] for retry in retries if any(part["index"] == index for part in retry["parts"])]
    return max(numbers, default=0)


def plan_retry(
    retries: Sequence[Mapping[str, Any]], receipts: Sequence[Mapping[str, Any] | None], statuses: Collection[str]
) -> dict[str, Any] | None:
    """Return the next retry: all parts with rows of these statuses, with the counts and hashes that they have now.

    `receipts` are those of all parts, None for one that must be made anyway. None means that there is nothing to begin:
    no part has such rows, or the last retry is unfinished and will be resumed.
    """
    last = {part["index"] for part in retries[-1]["parts"]} if retries else set()
    if any(receipts[index] is None for index in last):
        return None
    parts = [
        {"index": index, "statuses": receipt["facts"]["statuses"], "sha256": receipt["files"][0]["sha256"]}
        for index, receipt in enumerate(receipts)
        if receipt is not None and any(receipt["facts"]["statuses"].get(status) for status in statuses)
    ]
    return {"number": len(retries) + 1, "statuses": sorted(statuses), "parts": parts} if parts else None
