"""Where a report keeps its predictions, and which folder may become a report. Imports little: launchers load it."""

from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import is_leftover
from convnext_imagenet.base.protocol import check_begun_or_empty


def predictions_folder(report: Path) -> Path:
    """Return the folder of a report's predictions."""
    return report / "predictions"


def check_report_folder(report: Path) -> None:
    """Raise ArtefactError for a path that is neither a report, nor empty, nor new; write nothing."""
    folder = predictions_folder(report)
    if report.exists() and not report.is_dir():
        raise ArtefactError(f"{report}: exists and is a file; choose another directory")
    if report.is_dir() and not folder.is_dir():
        foreign = sorted(entry.name for entry in report.iterdir() if not is_leftover(entry.name))
        if foreign:
            raise ArtefactError(
                f"{report}: not empty and not a report (it holds {foreign[0]!r}); choose a new or an empty directory"
            )
    check_begun_or_empty(folder, "predictions")
