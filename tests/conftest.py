"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real research images, or a skip: the suite must pass without it."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("CONVNEXT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("no folder of real images: set CONVNEXT_SHARED_DATA to run this test")
    return folder
