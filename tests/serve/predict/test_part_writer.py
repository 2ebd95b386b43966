"""Which PREDICTIONS go on under which program, and what a report of other records is told."""

import dataclasses
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.model import resize
from convnext_imagenet.model.kernels import build
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import FileInputs, list_folder
from convnext_imagenet.serve.inputs.kinds import open_inputs
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


@pytest.mark.parametrize(
    ("readers", "batch_size", "size_px", "inputs"),
    [
        (64, 32, 224, 192),
        (1, 2, 224, 6),
        (64, 32, 1024, 64),  # 42 of 3 MiB fit into 128 MiB, and two batches are always under way
        (256, 32, 384, 303),
    ],
)
def test_inputs_under_way_are_two_rounds_of_the_readers_unless_they_are_large(readers, batch_size, size_px, inputs):
    assert part_writer._inputs_ahead(readers, batch_size, size_px) == inputs


def test_readers_go_on_while_the_network_computes(fake, tmp_path):
    """With one round of inputs under way they would wait: 8 readers read 10 inputs, then only what is scored."""
    loaded, images = [], tmp_path / "images"
    images.mkdir()
    for number in range(40):
        (images / f"{number:02d}.jpg").write_bytes(picture(number))

    class Counted(FileInputs):
        def items(self, numbers):
            for item in super().items(numbers):
                yield dataclasses.replace(item, load=lambda load=item.load: (loaded.append(1), load())[1])

    def wait_for_readers(pixels_NHWC):
        deadline = time.monotonic() + 2
        while len(loaded) < 2 * (8 + 2) and time.monotonic() < deadline:
            time.sleep(0.005)
        seen.append(len(loaded))
        return np.zeros((len(pixels_NHWC), 7), np.float32)

    seen: list[int] = []
    listed = list_folder(images)
    inputs = Counted(**{field.name: getattr(listed, field.name) for field in dataclasses.fields(listed)})
    slow = dataclasses.replace(fake, logits=wait_for_readers)
    with open_job(slow, inputs, tmp_path / "out", PredictOptions(batch_size=2, readers=8, part_rows=40)) as job:
        job.run(lambda count: None)
    assert seen[0] >= 2 * (8 + 2)


def test_compiling_the_kernels_is_no_part_of_the_time_of_an_image(fake, tmp_path, monkeypatch):
    """On a new machine this takes seconds, and minutes on a crowded one: good images became rows of status timeout."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture(1))
    find = build._find_or_build
    monkeypatch.setattr(build, "_find_or_build", lambda: (time.sleep(3), find())[1])
    for cached in (build._choose_library, resize._kernel):
        cached.cache_clear()
    options = dataclasses.replace(OPTIONS, device_target="Ascend", timeout_s=1.5)  # a plan for the CPU needs them, too
    with open_job(fake, list_folder(tmp_path / "images"), tmp_path / "out", options) as job:
        assert job.run(lambda count: None).statuses == {"ok": 1}


@pytest.mark.parametrize(
    ("keep", "equal"), [(("status", "input_status"), "input_status"), (("table_row",), "table_row")]
)
def test_kept_columns_that_would_get_one_name_are_refused(fake, tmp_path, keep, equal):
    columns = {name: ["x"] for name in ("status", "input_status", "table_row")}
    pq.write_table(pa.table({"image": [picture(1)], **columns}), tmp_path / "t.parquet")
    with pytest.raises(ServeError, match=f"--keep: two columns would be named '{equal}'"):
        part_writer.plan_predictions(fake, open_inputs(str(tmp_path / "t.parquet"), [], keep=keep), OPTIONS)
    kept = open_inputs(str(tmp_path / "t.parquet"), [], keep=("status",))
    assert part_writer.plan_predictions(fake, kept, OPTIONS)["keep"] == ["table_row", "status"]
