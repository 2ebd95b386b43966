"""A finished audit, or the decisions of people about its rows, read for those who act on them.

The decisions are a CSV file that a spreadsheet can edit: a row for each flagged image, `decision` empty, keep, drop or
relabel. It names the audit and the records in each row, because rows get sorted and split over files.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file, sha256_json, write_output
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.base.protocol import file_damage, read_finished
from convnext_imagenet.base.wording import as_word, plural
from convnext_imagenet.records.audit.flags import DECISIONS, KINDS, LEAVES_EVALUATION
from convnext_imagenet.records.audit.tables import ROWS_FILE


@dataclass(frozen=True)
class FlaggedRow:
    """A flagged image with what the audit proposes and what a person decided; texts are empty where there is nothing.

    With the decision relabel, `suggested_wnid` is the class that the image gets.
    """

    split: str
    key: str
    wnid: str
    kind: str
    also: str
    score: str
    partner: str
    suggested_wnid: str
    proposal: str
    decision: str
    note: str

    @property
    def kinds(self) -> set[str]:
        """Return all kinds of flags that the image has."""
        return {self.kind, *self.also.split()}

    @property
    def leaves_evaluation(self) -> bool:
        """Whether `eval --without` leaves it out: leaked, doubtful or blank, unless somebody decided to keep it."""
        return self.decision in ("drop", "relabel") or (not self.decision and bool(self.kinds & {*LEAVES_EVALUATION}))

    @property
    def is_dropped(self) -> bool:
        """Whether `build --drop` leaves it out: the decision, or without one the proposal."""
        return (self.decision or self.proposal) == "drop"


@dataclass(frozen=True)
class Judged:
    """The flagged rows of an audit; `sha256` is that of its manifest, or of the file of decisions.

    `audit_sha256` is the manifest's in both cases, `records_sha256` that of the manifest of the audited records, and
    `data_sha256` that of the fingerprint of their raw tree; both are empty for the audit of a folder.
    """

    path: Path
    sha256: str
    audit_sha256: str
    records_sha256: str
    data_sha256: str
    rows: tuple[FlaggedRow, ...]

    def keys_outside_evaluation(self, split: str) -> set[str]:
        """Return the keys of a split that an evaluation leaves out."""
        return {row.key for row in self.rows if row.split == split and row.leaves_evaluation}

    def require_records(self, manifest_sha256: str, what: str) -> None:
        """Raise ArtefactError unless the audit is one of the records with this manifest."""
        if self.records_sha256 != manifest_sha256:
            raise ArtefactError(
                f"{self.path}: an audit of other images than {what}; run `convnext-records audit {as_word(what)} "
                f"--out AUDIT`"
            )

    def require_splits(self, known: Collection[str]) -> None:
        """Raise ArtefactError for a row of another split than the known ones."""
        if unknown := sorted({row.split for row in self.rows} - {*known}):
            raise ArtefactError(
                f"{self.path}: rows of split {unknown[0]!r}, must be one of {', '.join(known)}; "
                f"restore the column `split`"
            )

    def require_data(self, fingerprint: dict[str, str], data: Path) -> None:
        """Raise ArtefactError unless the audited records were built from the raw tree with this fingerprint."""
        if not self.data_sha256:
            raise ArtefactError(
                f"{self.path}: an audit of a folder, whose images are named otherwise than those of records; build "
                f"records of {data} without --drop, and audit them"
            )
        if self.data_sha256 != sha256_json(fingerprint):
            raise ArtefactError(
                f"{self.path}: an audit of records that were not built from {data} with these classes; "
                f"build records of it without --drop, and audit them"
            )


_COLUMNS = [field.name for field in fields(FlaggedRow)]
_DELIMITERS = ",;\t"  # spreadsheets take a semicolon where the comma is the decimal point
_IDENTITY = ("audit_sha256", "records_sha256", "data_sha256")


def open_judged(path: Path) -> Judged:
    """Return a finished AUDIT directory, or a file of decisions.

    Raises ArtefactError when it is missing, unfinished, damaged or has unknown decisions.
    """
    return _open_audit(path) if path.is_dir() else _read_decisions(path)


def decisions_bytes(audit: Judged, earlier: Sequence[Judged] = ()) -> bytes:
    """Return the CSV file for the rows of an audit, with the decisions, notes and classes of earlier files.

    Raises ArtefactError for an earlier file of another audit or with an image that the audit does not flag, and for two
    files that decide differently.
    """
    decided: dict[tuple[str, str], FlaggedRow] = {}
    flagged = {(row.split, row.key) for row in audit.rows}
    for file in earlier:
        if file.audit_sha256 != audit.audit_sha256:
            raise ArtefactError(f"{file.path}: decisions about another audit than {audit.path}")
        for row in file.rows:
            if (row.split, row.key) not in flagged:
                raise ArtefactError(
                    f"{file.path}: {row.split} {row.key} is not flagged in {audit.path}; restore its split and key"
                )
            known = decided.get((row.split, row.key))
            if known and row.decision and known.decision not in ("", row.decision):
                raise ArtefactError(
                    f"{file.path}: {row.split} {row.key} is {row.decision!r} here and {known.decision!r} in an earlier "
                    f"file; make them agree"
                )
            if row.decision or row.note or known is None:
                decided[row.split, row.key] = row
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_COLUMNS, *_IDENTITY])
    identity = [getattr(audit, name) for name in _IDENTITY]
    for row in audit.rows:
        if known := decided.get((row.split, row.key)):
            row = replace(row, decision=known.decision, note=known.note, suggested_wnid=known.suggested_wnid)
        writer.writerow([*(getattr(row, name) for name in _COLUMNS), *identity])
    return buffer.getvalue().encode()


def export_decisions(audit: Judged, out: Path, earlier: Sequence[Judged] = ()) -> Counter[str]:
    """Write the CSV file of an audit's rows and return how many have each decision.

    Raises as `decisions_bytes`, and ArtefactError for an `out` with decisions that are not taken over.
    """
    _refuse_to_lose(out, earlier)
    write_output(out, decisions_bytes(audit, earlier))
    return Counter(row.decision or "undecided" for row in open_judged(out).rows) if audit.rows else Counter()


def _refuse_to_lose(out: Path, earlier: Sequence[Judged]) -> None:
    """Raise ArtefactError when writing `out` would lose what people wrote into it."""
    if not out.is_file() or any(out.samefile(file.path) for file in earlier):
        return
    if b"\n" not in out.read_bytes().strip():  # empty, or a header alone
        return
    try:
        rows = _read_decisions(out).rows
    except ArtefactError as error:
        raise ArtefactError(f"{error}; it was not replaced: choose another --out, or remove it first") from None
    if held := sum(bool(row.decision or row.note) for row in rows):
        raise ArtefactError(
            f"{out}: {plural(held, 'row')} with a decision or a note would be lost; pass --from {out}, too, or another "
            f"--out"
        )


def _open_audit(root: Path) -> Judged:
    manifest = read_finished(root, "audit")
    path = root / ROWS_FILE
    recorded = {"name": ROWS_FILE, "bytes": path.stat().st_size if path.is_file() else 0}
    if damage := file_damage(root, recorded | {"sha256": manifest["files"][ROWS_FILE]}, deep=True):
        raise ArtefactError(f"{damage}; audit the images again")
    source = manifest["source"]
    rows = (_flagged(row) for row in read_table(path).to_pylist())
    sha256 = sha256_file(root / "manifest.json")
    data = source.get("fingerprint")
    data_sha256 = sha256_json(data) if data else ""
    return Judged(root, sha256, sha256, source.get("manifest_sha256", ""), data_sha256, tuple(rows))


def _flagged(row: dict[str, Any]) -> FlaggedRow:
    texts = {name: row.get(name) or "" for name in _COLUMNS}
    return FlaggedRow(**texts | {"also": " ".join(row["also"]), "score": f"{row['score']:.4f}"})


def _read_decisions(path: Path) -> Judged:
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark of the byte order
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file or directory, expected AUDIT or a file of decisions") from None
    except UnicodeDecodeError:
        raise ArtefactError(f"{path}: not text in UTF-8; save the file of decisions as CSV in UTF-8") from None
    delimiter = max(_DELIMITERS, key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if missing := [name for name in (*_COLUMNS, *_IDENTITY) if name not in (reader.fieldnames or ())]:
        raise ArtefactError(
            f"{path}: not a file of decisions (no column {missing[0]!r}); "
            f"`convnext-records decisions AUDIT --out FILE` writes one"
        )
    try:
        lines = enumerate(reader, 2)
        entries = {line: entry for line, entry in lines if any(map(_text, entry.values()))}
    except csv.Error as error:
        raise ArtefactError(
            f"{path}: cannot be read as CSV ({error}); save the file of decisions as CSV again"
        ) from None
    if not entries:
        raise ArtefactError(f"{path}: no rows; `convnext-records decisions AUDIT --out FILE` writes one for each image")
    identities = {tuple(_text(entry[name]) for name in _IDENTITY) for entry in entries.values()}
    if len(identities) > 1:
        raise ArtefactError(f"{path}: rows of {len(identities)} audits; put those of each audit into its own file")
    by_line = {line: FlaggedRow(**{name: _text(entry[name]) for name in _COLUMNS}) for line, entry in entries.items()}
    for line, row in by_line.items():
        _check_row(f"{path}, row {line}", row)
    rows = tuple(by_line.values())
    if twice := [key for key, count in Counter((row.split, row.key) for row in rows).items() if count > 1]:
        raise ArtefactError(f"{path}: {' '.join(twice[0])} stands there twice; leave one row for each image")
    audit_sha256, records_sha256, data_sha256 = identities.pop()
    return Judged(path, sha256_file(path), audit_sha256, records_sha256, data_sha256, rows)


def _text(value: str | list[str] | None) -> str:
    """Return a cell without blanks; cells behind the last column are a list, missing ones None."""
    return value.strip() if isinstance(value, str) else " ".join(value or ()).strip()


def _check_row(where: str, row: FlaggedRow) -> None:
    if row.decision not in ("", *DECISIONS):
        raise ArtefactError(f"{where}: decision {row.decision!r}, must be empty or one of {', '.join(DECISIONS)}")
    if unknown := row.kinds - {*KINDS}:
        raise ArtefactError(f"{where}: kind {min(unknown)!r}, must be one of {', '.join(KINDS)}")
    if row.decision == "relabel" and not row.suggested_wnid:
        raise ArtefactError(f"{where}: relabel without a class; write its wnid into suggested_wnid")
