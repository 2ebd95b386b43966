"""A folder that Hugging Face `datasets` wrote by `save_to_disk`, as inputs: the Arrow tables of its state.json."""

import json
from pathlib import Path
from typing import Any

from convnext_imagenet.base.image_tables import SPLITS_FILE, STATE_FILE, data_files, is_indexed, split_names
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.inputs.storage import StoredFile
from convnext_imagenet.serve.inputs.tables import IMAGES, Columns, open_tables

_LARGEST_JSON_BYTES = 16 << 20


def open_saved_dataset(root: StoredFile, columns: Columns = IMAGES, folder: Path | None = None) -> Inputs | None:
    """Return the rows of the data set that was saved in `root`, or None for a folder that is no such data set.

    `folder` is the same on this machine. Raises ServeError for a folder of several splits, for one whose rows are
    chosen by an index, and as `open_table`.
    """
    if splits := split_names(_json(root / SPLITS_FILE)):
        raise ServeError(
            f"{root}: a Hugging Face data set of the splits {', '.join(splits)}; give the folder of one, such as "
            f"{root / splits[0]}"
        )
    state = _json(root / STATE_FILE)
    if (names := data_files(state)) is None:
        return None
    if is_indexed(state):
        raise ServeError(
            f"{root}: a Hugging Face data set whose rows are chosen by an index; write it again with "
            f"`flatten_indices()` and `save_to_disk`"
        )
    return open_tables([root / str(name) for name in names], columns, folder)


def _json(file: StoredFile) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one for a file of anything else, and for none."""
    try:
        content = json.loads(file.read_at(0, _LARGEST_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
