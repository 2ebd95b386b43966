"""Where an evaluation's report lies, and which folder may become one. It loads fast, for launchers."""

from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import is_leftover
from convnext_imagenet.base.protocol import check_begun_or_empty


def predictions_folder(report: Path) -> Path:
    """Where the predictions of a report lie."""
    return report / "predictions"


def check_report_folder(report: Path) -> None:
    """Raise ArtefactError for a folder that holds something else than a report; nothing is written."""
    folder = predictions_folder(report)
    if report.exists() and not report.is_dir():
        raise ArtefactError(f"{report}: a file is in the way; choose another directory")
    if report.is_dir() and not folder.is_dir():
        foreign = sorted(entry.name for entry in report.iterdir() if not is_leftover(entry.name))
        if foreign:
            raise ArtefactError(
                f"{report}: not empty and not a report (it holds {foreign[0]!r}); choose a new or an empty directory"
            )
    check_begun_or_empty(folder, "predictions")
