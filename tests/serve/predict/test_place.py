"""PREDICTIONS in a store: the files of a local directory byte for byte, through faults and kills."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.predict import place
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.place import LocalPlace, open_place
from convnext_imagenet.serve.settings import PredictOptions

from ...object_store import running_store
from ..conftest import picture

COMMAND = str(Path(sys.executable).with_name("convnext-serve"))
OPTIONS = PredictOptions(topk=3, part_rows=4, batch_size=3, workers=2)


@pytest.fixture
def store():
    with running_store() as running:
        yield running


def _run(checkpoint, inputs, out, options=OPTIONS, on_progress=lambda count: None, **more):
    with open_job(checkpoint, inputs, out, options, **more) as job:
        return job.run(on_progress)


def _files(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != ".lock"}


def _objects(store, prefix):
    """The objects of a folder, without the empty one that stands for the folder itself."""
    found = {key: data for key, data in store.objects.items() if key.startswith(f"{prefix}/") and key != f"{prefix}/"}
    return {key.removeprefix(f"{prefix}/"): data for key, data in found.items()}


@pytest.mark.parametrize("out", ["a/b", Path("a/b"), "file:///a/b", "file:/a/b"])
def test_a_path_is_a_local_place(out):
    assert isinstance(open_place(out), LocalPlace)


def test_a_store_holds_the_bytes_of_a_local_directory_and_resumes(fake, folder, tmp_path, store):
    _run(fake, list_folder(folder), tmp_path / "out")

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(fake, list_folder(folder), open_place(store.uri("out")), on_progress=stop)
    assert "out/_SUCCESS" not in store.objects
    assert _run(fake, list_folder(folder), open_place(store.uri("out"))).parts_made == 3
    assert _objects(store, "out") == _files(tmp_path / "out")
    assert _run(fake, list_folder(folder), open_place(store.uri("out"))).parts_made == 0
    del store.objects["out/part-00001.parquet"]
    assert _run(fake, list_folder(folder), open_place(store.uri("out"))).parts_made == 1
    assert _objects(store, "out") == _files(tmp_path / "out")
    table = pq.read_table("pics/out", filesystem=pa_fs.FileSystem.from_uri(store.uri())[0])
    assert table["sample_id"].to_pylist() == list(range(11))


def test_a_retry_in_a_store(fake, folder, tmp_path, store):
    (folder / "0.jpg").symlink_to("nowhere.jpg")
    inputs = list_folder(folder)
    for out in (tmp_path / "out", open_place(store.uri("out"))):
        _run(fake, inputs, out)
    (folder / "0.jpg").unlink()
    (folder / "0.jpg").write_bytes(picture(1))
    for out in (tmp_path / "out", open_place(store.uri("out"))):
        assert _run(fake, inputs, out, retry=("read_error",)).statuses["ok"] == 7
    assert _objects(store, "out") == _files(tmp_path / "out")


def test_another_plan_foreign_files_and_the_inputs_themselves_are_refused(fake, folder, store):
    _run(fake, list_folder(folder), open_place(store.uri("out")))
    before = dict(store.objects)
    with pytest.raises(ArtefactError, match=r"s3://pics/out: belongs to another run \(differs in: topk\)") as refused:
        _run(fake, list_folder(folder), open_place(store.uri("out")), PredictOptions(topk=1, part_rows=4, batch_size=3))
    assert "secret" not in str(refused.value)
    store.objects["mine/thesis.txt"] = b"precious"
    with pytest.raises(ArtefactError, match=r"not empty, and not created by this program .*thesis"):
        open_place(store.uri("mine")).check()
    store.objects["folders/a/thesis.txt"] = b"precious"
    with pytest.raises(ArtefactError, match=r"not empty, and not created by this program .*a/thesis"):
        open_place(store.uri("folders")).check()
    store.objects["images/a.jpg"] = picture(0)
    with pytest.raises(ServeError, match="lies inside the inputs"):
        _run(fake, open_inputs(store.uri("images"), []), open_place(store.uri("images/out")))
    assert {key: store.objects[key] for key in before} == before


def test_what_verify_says_of_a_store_names_the_store(fake, folder, store):
    def said(path):
        result = CliRunner().invoke(main, ["verify", store.uri(path)])
        assert "secret" not in result.output
        assert tempfile.gettempdir() not in result.output
        return result.output

    store.objects["else/holiday.jpg"] = picture(0)
    for path in ("none", "else"):
        assert f"Error: s3://pics/{path}: not a predictions directory" in said(path)
    assert store.requests["GET", "else/holiday.jpg"] == 0
    _run(fake, list_folder(folder), open_place(store.uri("out")))
    assert "s3://pics/out: 11 rows, one for each input" in said("out")
    store.objects["out/part-00001.parquet"] = store.objects["out/part-00000.parquet"]
    assert "s3://pics/out/part-00001.parquet" in said("out")
    del store.objects["out/_SUCCESS"]
    assert "Error: s3://pics/out: " in said("out")


def test_a_second_writer_is_refused_and_one_that_has_ended_is_not_waited_for(fake, folder, store, monkeypatch):
    monkeypatch.setattr(place, "_LOCK_RENEWAL_S", 0.05)
    with (
        open_job(fake, list_folder(folder), open_place(store.uri("out")), OPTIONS),
        pytest.raises(ArtefactError, match="another process is writing here"),
    ):
        _run(fake, list_folder(folder), open_place(store.uri("out")))
    assert "out/_lock.json" not in store.objects
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(place, "_this_process", lambda: {"host": os.uname().nodename, "pid": ended.pid})
    open_place(store.uri("out"))._note("x", 0)
    monkeypatch.setattr(place, "_LOCK_RENEWAL_S", 3600)
    assert _run(fake, list_folder(folder), open_place(store.uri("out"))).parts_made == 3


@pytest.mark.slow
def test_a_store_that_fails_for_a_while_is_waited_for_and_one_that_stays_away_is_an_error(
    fake, folder, tmp_path, store, monkeypatch
):
    _run(fake, list_folder(folder), tmp_path / "out")
    store.faults.refused = {"out/part-00001.parquet": 40, "out/_manifest.json": 3}
    _run(fake, list_folder(folder), open_place(store.uri("out")))
    assert _objects(store, "out") == _files(tmp_path / "out")
    monkeypatch.setattr("convnext_imagenet.base.stores._RETRY_S", 1.0)
    store.faults.is_down = True
    with pytest.raises(FailedError, match=r"the store keeps failing .*run the same command again to resume"):
        open_place(store.uri("out")).check()


@pytest.mark.slow
def test_keys_that_a_store_refused_are_read_again_by_the_command_that_the_error_names(checkpoint_file, tmp_path, store):
    store.objects |= {f"images/{number}.jpg": picture(number) for number in range(10)}
    command = [COMMAND, "predict", str(checkpoint_file), store.uri("images"), "--device-target", "CPU"]
    command += ["--batch-size", "2", "--part-rows", "2", "--retry-for", "0"]
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    store.faults.refused = {"images/3.jpg": -1, "images/8.jpg": -1}
    first = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert first.returncode == 3, first.stderr
    assert "2 error rows, more than the 0 allowed" in first.stderr
    assert "pass --retry read_error to read those inputs again" in first.stderr
    store.faults.refused = {}
    second = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--retry", "read_error"], capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    assert "10 rows (10 ok) in 5 parts, 2 written by this command" in second.stdout
    for part in (tmp_path / "whole").glob("part-*"):
        assert (tmp_path / "out" / part.name).read_bytes() == part.read_bytes()


@pytest.mark.slow
def test_kills_faults_and_delays_leave_every_row_once_and_none_wrong(checkpoint_file, tmp_path, store):
    """Inputs and predictions in one store that is slow, refuses and cuts; the command is killed at random."""
    moments, count = random.Random(25), 60
    store.objects |= {f"images/{number:03d}.jpg": picture(number) for number in range(count)}
    options = ["--part-rows", "8", "--batch-size", "4", "--workers", "2", "--device-target", "CPU"]
    command = [COMMAND, "predict", str(checkpoint_file), store.uri("images"), *options]
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    store.faults.delay_s = 0.02
    kills = 0
    for _ in range(8):
        keys = moments.sample([f"images/{number:03d}.jpg" for number in range(count)], 8)
        store.faults.refused = dict.fromkeys(keys[:4], 2)
        store.faults.cut = dict.fromkeys(keys[4:], 1)
        process = subprocess.Popen(
            [*command, "--out", store.uri("out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        before = len(store.objects)
        while process.poll() is None and len(store.objects) < before + 3:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        for name, data in _objects(store, "out").items():
            if name.startswith("part-"):
                assert data == (tmp_path / "whole" / name).read_bytes()
    assert kills >= 4
    last = subprocess.run([*command, "--out", store.uri("out")], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "secret" not in last.stdout + last.stderr
    assert _objects(store, "out") == _files(tmp_path / "whole")
    checked = subprocess.run([COMMAND, "verify", store.uri("out")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"{count} rows, one for each input" in checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["listing", "reading"])
def test_a_stop_signal_is_answered_while_a_store_hangs(checkpoint_file, tmp_path, store, slow):
    store.objects |= {f"images/{number}.jpg": picture(number) for number in range(4)}
    if slow == "listing":
        store.faults.delay_s = 600
    command = [COMMAND, "predict", str(checkpoint_file), store.uri("images"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while store.waiting == 0 and process.poll() is None:
        time.sleep(0.05)
        if slow == "reading" and store.requests:
            store.faults.delay_s = 600
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped by a signal" in errors
