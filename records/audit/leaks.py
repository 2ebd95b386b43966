"""Whether images of val are in train, too: from the last audit of the records on this machine, else from their bytes.

A finished RECORDS directory is never changed, so an audit leaves its counts in the user's cache.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from convnext_imagenet.base.files import write_json
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.base.parquet import equals
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.base.wording import as_word, plural
from convnext_imagenet.records.audit.messages import are_alike
from convnext_imagenet.records.audit.sources import RecordsSource, Source
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.row_lookup import read_index


def remember_leaks(source: Source, summary: Mapping[str, Any], out: Path) -> None:
    """Note for later commands on this machine what an audit of RECORDS has found."""
    if not isinstance(source, RecordsSource):
        return
    try:
        path = _note(source.records.manifest_sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"audit": str(out.resolve()), "leaks": summary["leaks"], "are_alike": are_alike(summary)})
    except (OSError, RuntimeError):
        return  # without the note, a run compares bytes only


def leak_line(records: Records, split: str = "val") -> str | None:
    """Return a line that says how many images of a split are in another one, and what to do; None if none are."""
    rows = records.split(split).rows
    if (note := _read_note(records.manifest_sha256)) is not None:
        leaks, audit = note["leaks"].get(split, 0), note["audit"]
        found = f"have a copy in another split, says {audit}"
        if note.get("are_alike"):
            found += ", but so many images look alike that these may be no copies (report.html shows them)"
        advice = (
            f"`convnext-serve eval RUN --records {as_word(records.root)} --without {as_word(audit)}` prints the "
            f"accuracy without them"
        )
    else:
        leaks = _same_bytes(records, split)
        found = "have the bytes of an image in another split"
        advice = f"`convnext-records audit {as_word(records.root)} --out AUDIT` finds all copies"
    verb = "may leak" if note and note.get("are_alike") else "leaks"
    return f"{split} {verb}: {leaks:,} of {plural(rows, 'image')} {found}; {advice}" if leaks else None


def _same_bytes(records: Records, split: str) -> int:
    """Return how many images of a split have the bytes of an image in another one."""
    index = read_index(records, ("split", "sha256"))
    is_own = equals(index["split"], split)
    own, others = index.filter(is_own)["sha256"], index.filter(pc.invert(is_own))["sha256"]
    return pc.sum(pc.is_in(own, others.combine_chunks())).as_py() or 0


def _note(manifest_sha256: str) -> Path:
    return cache_folder("audits") / f"{manifest_sha256}.json"


def _read_note(manifest_sha256: str) -> dict[str, Any] | None:
    try:
        note = json.loads(_note(manifest_sha256).read_bytes())
        return note if is_finished(Path(note["audit"])) and isinstance(note["leaks"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
