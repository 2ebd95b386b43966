"""The protocol: nothing counts before its mark, and nothing of another run is taken for ours."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.plan_changes import differences


def _unit(root: Path, plan_id: str, text: str = "content") -> dict:
    staged = protocol.staging(root) / "unit.bin"
    staged.write_text(text)
    return protocol.publish([staged], root / "train", "unit", plan_id, {"rows": 3})


def test_a_unit_counts_only_with_its_receipt(tmp_path):
    plan_id = protocol.begin(tmp_path, "records", {"seed": 1})
    assert protocol.read_receipt(tmp_path / "train", "unit", plan_id) is None
    receipt = _unit(tmp_path, plan_id)
    assert protocol.read_receipt(tmp_path / "train", "unit", plan_id, deep=True) == receipt
    assert receipt["facts"] == {"rows": 3}
    (tmp_path / "train" / "unit.json").unlink()
    assert protocol.read_receipt(tmp_path / "train", "unit", plan_id) is None


def test_a_file_staged_under_a_name_that_no_tool_looks_for_is_published_under_its_own(tmp_path):
    plan_id = protocol.begin(tmp_path, "predictions", {"seed": 1})
    staged = protocol.staging(tmp_path) / f"part.parquet{protocol.STAGED}"
    staged.write_text("content")
    receipt = protocol.publish([staged], tmp_path, "_part", plan_id, {})
    assert receipt["files"][0]["name"] == "part.parquet"
    assert {path.name for path in tmp_path.rglob("*part*")} == {"part.parquet", "_part.json"}
    assert protocol.read_receipt(tmp_path, "_part", plan_id, deep=True) == receipt


@pytest.mark.parametrize("damage", ["shorter", "flipped", "missing", "receipt"])
def test_a_damaged_unit_has_to_be_made_again(tmp_path, damage):
    plan_id = protocol.begin(tmp_path, "records", {"seed": 1})
    _unit(tmp_path, plan_id)
    path = tmp_path / "train" / "unit.bin"
    if damage == "shorter":
        path.write_text("conten")
    elif damage == "flipped":
        path.write_text("contenT")
    elif damage == "missing":
        path.unlink()
    else:
        (tmp_path / "train" / "unit.json").write_text('{"plan_id":')
    assert protocol.read_receipt(tmp_path / "train", "unit", plan_id, deep=True) is None


def test_a_receipt_of_another_plan_does_not_count(tmp_path):
    _unit(tmp_path, protocol.begin(tmp_path, "records", {"seed": 1}))
    assert protocol.read_receipt(tmp_path / "train", "unit", "another plan") is None


def test_the_same_plan_goes_on_and_another_is_refused_by_key(tmp_path):
    plan = {"seed": 1, "source": {"rows": 5, "bytes": 9}}
    assert protocol.begin(tmp_path, "records", plan) == protocol.begin(
        tmp_path, "records", dict(reversed(plan.items()))
    )
    with pytest.raises(ArtefactError, match=r"differs in: seed, source\.rows\)"):
        protocol.begin(tmp_path, "records", {"seed": 2, "source": {"rows": 6, "bytes": 9}})
    with pytest.raises(ArtefactError, match="holds records, not a run"):
        protocol.begin(tmp_path, "run", plan)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(ArtefactError, match=r"thesis\.tex"):
        protocol.begin(tmp_path, "records", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ArtefactError, match="a file is in the way"):
        protocol.begin(tmp_path / "out", "records", {})


def test_only_a_finished_and_untouched_directory_is_read(tmp_path):
    with pytest.raises(ArtefactError, match="no such directory"):
        protocol.read_finished(tmp_path / "missing", "records")
    with pytest.raises(ArtefactError, match="not a records directory"):
        protocol.read_finished(tmp_path, "records")
    plan_id = protocol.begin(tmp_path, "records", {})
    with pytest.raises(ArtefactError, match=r"unfinished.*run the same `convnext-ingest build` again"):
        protocol.read_finished(tmp_path, "records")
    protocol.finish(tmp_path, "records", {"plan_id": plan_id, "rows": 1})
    assert protocol.read_finished(tmp_path, "records")["rows"] == 1
    assert not (tmp_path / ".staging").exists()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "rows": 2}))
    with pytest.raises(ArtefactError, match="changed since the directory was finished"):
        protocol.read_finished(tmp_path, "records")


def test_two_writers_are_refused_and_a_killed_one_lets_go(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from convnext_imagenet.base.protocol import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ArtefactError, match="another process is writing"), protocol.exclusive(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with protocol.exclusive(tmp_path):
        pass


def test_tools_that_read_a_folder_as_parquet_skip_the_bookkeeping_of_predictions(tmp_path):
    plan_id = protocol.begin(tmp_path, "predictions", {})
    staged = protocol.staging(tmp_path) / "part-00000.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), staged)
    unit = protocol.bookkeeping_name("predictions", "part-00000")
    protocol.publish([staged], tmp_path, unit, plan_id, {})
    protocol.finish(tmp_path, "predictions", {"plan_id": plan_id})
    assert pq.read_table(tmp_path).column("x").to_pylist() == [1, 2]
    assert protocol.read_finished(tmp_path, "predictions")["plan_id"] == plan_id


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}, ["a.c", "d"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a"]),
        (None, {"a": 1}, ["plan"]),
    ],
)
def test_differing_keys(one, other, keys):
    assert [difference.key for difference in differences(one, other)] == keys


def test_a_plan_that_was_killed_half_way_does_not_close_the_directory(tmp_path):
    (tmp_path / ".plan.json.4711.tmp").write_bytes(b"{")
    protocol.begin(tmp_path, "records", {"seed": 1})
    assert (tmp_path / "plan.json").exists()


def test_another_process_joins_what_the_first_has_begun(tmp_path):
    with pytest.raises(ArtefactError, match=r"this process does not see it; .* all machines of the job share"):
        protocol.join(tmp_path / "out", "predictions", {"topk": 5})
    assert not (tmp_path / "out").exists()
    plan_id = protocol.begin(tmp_path / "out", "predictions", {"topk": 5})
    assert protocol.join(tmp_path / "out", "predictions", {"topk": 5}) == plan_id
    with pytest.raises(ArtefactError, match=r"differs in: topk\)"):
        protocol.join(tmp_path / "out", "predictions", {"topk": 6})
    with pytest.raises(ArtefactError, match="all machines of the job share"):
        protocol.join(tmp_path / "out", "run", {"topk": 5})


def _of_another_kind(root: Path) -> None:
    protocol.begin(root, "records", {})


def _foreign(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "thesis.tex").write_text("do not touch")


def _damaged(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "plan.json").write_text('{"kind":')


def _a_file(root: Path) -> None:
    root.parent.mkdir()
    root.write_text("")


def _below_a_file(root: Path) -> None:
    root.parent.write_text("")


@pytest.mark.parametrize("make", [_of_another_kind, _foreign, _damaged, _a_file, _below_a_file])
def test_what_begin_would_refuse_is_refused_beforehand(tmp_path, make):
    root = tmp_path / "parent" / "out"
    make(root)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtefactError) as early:
        protocol.check_begun_or_empty(root, "run")
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ArtefactError) as late:
        protocol.begin(root, "run", {})
    assert str(early.value).partition(";")[0] == str(late.value).partition(";")[0]


def _absent(root: Path) -> None:
    """Nothing is made of it."""


def _empty(root: Path) -> None:
    root.mkdir(parents=True)


def _begun(root: Path) -> None:
    protocol.begin(root, "run", {"seed": 1})
    (root / "metrics.jsonl").write_text("")


def _only_logs(root: Path) -> None:
    """Ranks keep logs there before the first of them begins."""
    (protocol.logs_folder(root, "run")).mkdir(parents=True)


def _left_by_a_kill(root: Path) -> None:
    root.mkdir(parents=True)
    (root / ".plan.json.4711.tmp").write_bytes(b"{")


@pytest.mark.parametrize("make", [_absent, _empty, _begun, _only_logs, _left_by_a_kill])
def test_what_begin_would_take_is_accepted_and_left_as_it_is(tmp_path, make):
    root = tmp_path / "parent" / "out"
    make(root)
    before = sorted(tmp_path.rglob("*"))
    protocol.check_begun_or_empty(root, "run")
    assert sorted(tmp_path.rglob("*")) == before
    protocol.begin(root, "run", {"seed": 1})


@pytest.mark.parametrize(("kind", "name"), [("run", "logs"), ("records", "logs"), ("predictions", "_logs")])
def test_logs_lie_where_no_tool_takes_them_for_data(tmp_path, kind, name):
    assert protocol.logs_folder(tmp_path, kind) == tmp_path / name


def test_each_writer_has_a_stage_of_its_own(tmp_path):
    protocol.begin(tmp_path, "predictions", {})
    (protocol.staging(tmp_path) / "left").write_text("by a kill")
    (protocol.staging(tmp_path, "rank-9") / "left").write_text("by a kill")
    protocol.staging(tmp_path)
    stages = [protocol.staging(tmp_path, f"rank-{rank}") for rank in range(2)]
    assert sorted((tmp_path / ".staging").iterdir()) == stages, "what was left is gone"
    for stage in stages:
        (stage / "part").write_text(stage.name)
    assert protocol.staging(tmp_path, "rank-1") == stages[1]
    assert [sorted(path.name for path in stage.iterdir()) for stage in stages] == [["part"], []]


def test_a_file_system_without_locks_is_a_warning_and_no_second_writer(tmp_path, monkeypatch, caplog):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(protocol.fcntl, "flock", flock)
    with protocol.exclusive(tmp_path / "out"):
        assert "has no locks (No locks available)" in caplog.text
