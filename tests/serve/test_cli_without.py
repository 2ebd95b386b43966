"""`eval --without`: both numbers with their counts and intervals, and audits that do not fit."""

import io

import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.records.audit.evidence import Asked
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.sources import open_source
from convnext_imagenet.serve.cli import main

from .conftest import build_records, picture


def _call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _audit(root, out):
    with open_audit(open_source(root), Asked(), root, out, 1) as job:
        job.write_parts(lambda count: None, lambda: False)
        job.finish((), job.compare())
    return out


def _again(image):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


@pytest.fixture
def images():
    """Eleven pictures, of which the last is the first one, encoded again."""
    pictures = [picture(seed) for seed in range(10)]
    return [*pictures, _again(pictures[0])]


def test_both_numbers_are_printed(checkpoint_file, images, tmp_path):
    labels = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 1]  # the copy has another label, so both are doubtful
    root = build_records(tmp_path / "records", images, labels)
    audit = _audit(root, tmp_path / "audit")
    done = _call("eval", checkpoint_file, "--records", root, "--without", audit)
    assert done.exit_code == 0, done.output
    every, rest, left_out = done.stdout.splitlines()[-3:]
    assert every.startswith("all rows:  top-1 ")
    assert "/11 = " in every
    assert rest.startswith("without:   top-1 ")
    assert "/9 = " in rest
    assert "95 % interval" in rest
    assert left_out == f"left out: 2 rows of val that {audit} flags as leaked, doubtful or blank"


def test_what_does_not_fit_is_refused(checkpoint_file, images, tmp_path):
    root = build_records(tmp_path / "records", images, [0] * 11)
    other = build_records(tmp_path / "other", images[:5], [0] * 5)
    audit = _audit(other, tmp_path / "audit")
    cases = {
        audit: "an audit of other images than",
        tmp_path / "none": "no such file or directory, expected AUDIT",
        other: "not an audit directory|holds records, not an audit",
    }
    for path, message in cases.items():
        done = _call("eval", checkpoint_file, "--records", root, "--without", path)
        assert done.exit_code == 1
        assert any(part in done.output for part in message.split("|")), done.output
    done = _call("eval", checkpoint_file, "--records", root, "--without", audit, "--report", tmp_path / "report")
    assert done.exit_code == 2
