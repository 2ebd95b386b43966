"""Which PREDICTIONS go on under which program, and what a report of other records is told."""

import dataclasses
import shutil

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict import part_writer
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.report.report import begin_report, report_options
from convnext_imagenet.serve.settings import PredictOptions

from ..conftest import build_records, picture

OPTIONS = PredictOptions(topk=3, part_rows=4, batch_size=2)


def _run(checkpoint, folder, out):
    with open_job(checkpoint, list_folder(folder), out, OPTIONS) as job:
        return job.run(lambda count: None)


@pytest.mark.parametrize(
    ("rule", "constant"),
    [
        ("image_checks", "CHECKS_VERSION"),
        ("network", "NETWORK_VERSION"),
        ("rows", "ROWS_VERSION"),
        ("transform", "TRANSFORM_VERSION"),
    ],
)
def test_predictions_of_other_rules_are_refused_and_the_ways_out_lead_out(
    fake, folder, tmp_path, monkeypatch, rule, constant
):
    out, now = tmp_path / "out", getattr(part_writer, constant)
    first = _run(fake, folder, out)
    with monkeypatch.context() as newer:
        newer.setattr(part_writer, constant, now + 1)
        with pytest.raises(ArtefactError) as refused:
            _run(fake, folder, out)
        assert (
            f"(differs in: rules.{rule}): rules.{rule} is {now} in the directory, now {now + 1}; choose another"
            in str(refused.value)
        )
        assert _run(fake, folder, tmp_path / "another").parts_made == first.parts_made
    assert _run(fake, folder, out).parts_made == 0, "what began it resumes it"
    shutil.rmtree(out)
    with monkeypatch.context() as newer:
        newer.setattr(part_writer, constant, now + 1)
        assert _run(fake, folder, out).parts_made == first.parts_made


def test_an_edit_of_the_package_that_decides_nothing_refuses_nothing(fake, folder, tmp_path, monkeypatch):
    _run(fake, folder, tmp_path / "out")
    monkeypatch.setattr("importlib.metadata.version", _another_version_of_ours)
    monkeypatch.setattr(part_writer, "version", _another_version_of_ours)
    assert _run(fake, folder, tmp_path / "out").parts_made == 0


_VERSION = part_writer.version


def _another_version_of_ours(name: str) -> str:
    return "99.0" if name == "convnext_imagenet" else _VERSION(name)


def _report(checkpoint, records, folder):
    split = Records.open(records).split("val")
    with begin_report(folder, checkpoint, split, None, report_options(4, 1, "CPU")) as made:
        made.job.run(lambda count: None)
        return made.write()


def test_a_report_of_other_records_is_refused_and_deleting_it_leads_out(fake, tmp_path):
    images = [picture(seed) for seed in range(5)]
    one, other = (build_records(tmp_path / name, images, labels) for name, labels in (("a", [0] * 5), ("b", [1] * 5)))
    plans = [dataclasses.asdict(Records.open(root).manifest)["plan_id"] for root in (one, other)]
    assert plans[0] == plans[1], "known by their manifests alone"
    report = tmp_path / "report"
    _report(fake, one, report)
    with pytest.raises(ArtefactError) as refused:
        _report(fake, other, report)
    assert str(refused.value).startswith(f"{report}: belongs to another run (differs in: inputs.sha256): ")
    assert str(refused.value).endswith("; choose another --report, or delete this folder")
    _report(fake, other, tmp_path / "another")
    shutil.rmtree(report)
    _report(fake, other, report)
    summaries = [(folder / "summary.json").read_bytes() for folder in (report, tmp_path / "another")]
    assert summaries[0] == summaries[1]
