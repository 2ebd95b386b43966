"""push and pull: every byte arrives, after kills, over a bad network, and nothing half-done is read."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.files import read_json
from convnext_imagenet.base.uris import public_place
from convnext_imagenet.records import open_records
from convnext_imagenet.records.build import make_manifest, mark_finished, write_summary_files
from convnext_imagenet.records.cli import main
from convnext_imagenet.records.index import index_entry, shard_index_path, write_shard_index
from convnext_imagenet.records.page_sizes import PageLayout
from convnext_imagenet.records.places import StorePlace, place_of
from convnext_imagenet.records.pull import _fetch, pull, verify_stored
from convnext_imagenet.records.push import _only_push, push
from convnext_imagenet.records.quarantine import table_bytes as quarantine_bytes
from convnext_imagenet.records.receipts import shard_facts, shard_files, split_entry
from convnext_imagenet.records.shards import write_shard
from convnext_imagenet.records.travel import Check, Travelled, for_all

from ..object_store import Store, running_store
from .conftest import build_records, make_rows


@pytest.fixture
def store():
    with running_store() as found:
        yield found


def tree(root: Path) -> dict[str, bytes]:
    """The files of RECORDS, without locks and stamps."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def stored(store: Store, folder: str = "set") -> dict[str, bytes]:
    """The objects of a folder; Arrow leaves an empty one for a folder in which it deleted a file."""
    return {key.removeprefix(f"{folder}/"): data for key, data in store.objects.items() if not key.endswith("/")}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.output
    return result.output


def test_what_is_pushed_is_pulled_byte_by_byte(records_root, tmp_path, store):
    uri, out = store.uri("set"), tmp_path / "pulled"
    assert "2 shards" in run("push", records_root, uri)
    assert stored(store) == tree(records_root)
    assert "every shard was there already" in run("push", records_root, uri)
    assert "2 shards" in run("pull", uri, "--out", out)
    assert tree(out) == tree(records_root)
    assert "every shard was there already" in run("pull", uri, "--out", out)
    source = open_records(uri)
    assert list(source) == list(open_records(records_root))


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_commands_read_where_records_lie(records_root, tmp_path, store, scheme):
    uri = store.uri("set") if scheme == "s3" else f"file://{tmp_path}/set"
    push(records_root, uri)
    for command in (["show"], ["peek", "--row", 3], ["peek", "--key", "n00000001_4"]):
        there, here = (run(command[0], place, *command[1:]) for place in (uri, records_root))
        assert there.replace(public_place(uri), str(records_root)) == here
    assert "every file compared" in run("verify", uri)


def test_only_what_differs_is_sent(records_root, store):
    push(records_root, store.uri("set"))
    shard = next(key for key in store.objects if key.endswith("00001-of-00002.mindrecord"))
    for change in (lambda: store.objects.pop(shard), lambda: store.objects.pop(shard.replace(".mindrecord", ".json"))):
        store.sent.clear()
        store.objects.pop("set/_SUCCESS")
        change()
        push(records_root, store.uri("set"))
        assert stored(store) == tree(records_root)
        assert {key for key in store.sent if key.endswith(".mindrecord")} <= {shard}
        assert not any("00000-of-00002" in key for key in store.sent)


@pytest.mark.parametrize("ending", [".mindrecord", ".parquet", "manifest.json"])
def test_what_a_message_about_damage_in_a_store_advises_leads_out(records_root, tmp_path, store, ending):
    uri = store.uri("set")
    push(records_root, uri)
    key = next(key for key in sorted(store.objects) if key.endswith(ending))
    data = store.objects[key]
    store.objects[key] = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    with pytest.raises(ArtefactError, match="push" if ending == "manifest.json" else "delete these files there"):
        verify_stored(place_of(uri))
    if ending != "manifest.json":
        assert push(records_root, uri) == Travelled(0, 0)  # sizes and receipts are as they should be
        with pytest.raises(ArtefactError, match="delete this file there"):
            pull(uri, tmp_path / "pulled")
        del store.objects[key]
    push(records_root, uri)
    verify_stored(place_of(uri))
    assert stored(store) == tree(records_root)


def test_a_bit_that_flips_on_the_way_is_noticed(records_root, tmp_path, store):
    shard = f"set/train/{min((records_root / 'train').glob('*.mindrecord')).name}"
    store.faults.flipped.add(shard)
    push(records_root, store.uri("set"))
    assert stored(store) == tree(records_root)
    assert store.sent[shard] == 2 * len(store.objects[shard])
    data = store.objects[shard]
    store.objects[shard] = data[:20_000] + bytes([data[20_000] ^ 1]) + data[20_001:]
    with pytest.raises(ArtefactError, match=r"its SHA-256 is not the recorded one"):
        pull(store.uri("set"), tmp_path / "out")
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    with pytest.raises(ArtefactError, match="1 problem"):
        verify_stored(StorePlace(store.uri("set")))
    store.objects[shard] = data
    pull(store.uri("set"), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(records_root)


def test_a_network_that_drops_a_tenth_of_its_requests(records_root, tmp_path, store):
    store.faults.dropped, store.faults.delay_s = 0.1, 0.002
    push(records_root, store.uri("set"))
    pull(store.uri("set"), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(records_root) == stored(store)


def _killed(command: list[str], rounds: int, seconds: float, is_done) -> None:
    """Start the command again and again, kill it at other moments, and let it end at last."""
    program = "from convnext_imagenet.records.cli import main; main()"
    for number in range(rounds):
        process = subprocess.Popen([sys.executable, "-c", program, *command], stderr=subprocess.DEVNULL)
        with_start = 0.5 + seconds * number / rounds
        time.sleep(with_start)
        process.kill()
        process.wait()
        is_done()
    subprocess.run([sys.executable, "-c", program, *command], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [12, pytest.param(50, marks=pytest.mark.faults)])
def test_kills_at_any_moment_lose_nothing_and_show_nothing_half_done(tmp_path, store, rounds):
    root = build_records(tmp_path / "records", make_rows(60), shards=6)
    uri, out, whole = store.uri("set"), tmp_path / "out", tree(root)
    store.faults.delay_s = 0.004

    def push_is_whole_if_marked() -> None:
        if "set/_SUCCESS" in store.objects:
            assert {name: data for name, data in stored(store).items() if not name.startswith(".push")} == whole
            store.objects.pop("set/_SUCCESS")

    _killed(["push", str(root), uri], rounds, 2.0, push_is_whole_if_marked)
    assert stored(store) == whole

    def pull_is_whole_if_marked() -> None:
        if (out / "_SUCCESS").exists():
            assert tree(out) == whole
            shutil.rmtree(out)

    _killed(["pull", uri, "--out", str(out)], rounds, 2.0, pull_is_whole_if_marked)
    assert tree(out) == whole


def test_a_path_in_place_of_a_uri_is_called_that(records_root, tmp_path):
    for arguments in (["push", records_root, "/elsewhere"], ["pull", "/elsewhere", "--out", tmp_path / "out"]):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert (result.exit_code, "/elsewhere: not a URI" in result.output) == (1, True), result.output


def test_what_must_not_be_read_or_overwritten(records_root, tmp_path, store):
    other = build_records(tmp_path / "other", make_rows(5))
    uri = store.uri("set")
    push(records_root, uri)
    with pytest.raises(ArtefactError, match="holds other records than"):
        push(other, uri)
    with pytest.raises(ArtefactError, match="holds other records"):
        pull(uri, other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ArtefactError, match="not created by this program"):
        pull(uri, tmp_path / "mine")
    store.objects["else/holiday.jpg"] = b"x"
    with pytest.raises(ArtefactError, match=r"not empty, and no records \(it holds 'holiday.jpg'\)"):
        push(records_root, store.uri("else"))
    store.objects.pop("set/_SUCCESS")  # half-pushed
    for read in (lambda: pull(uri, tmp_path / "new"), lambda: open_records(uri)):
        with pytest.raises(ArtefactError, match="half of them: run `convnext-records push` again"):
            read()
    store.faults.is_forbidden = True
    for act in (lambda: push(records_root, uri), lambda: pull(uri, tmp_path / "new"), lambda: open_records(uri)):
        with pytest.raises(ArtefactError, match=r"refused .*check the address and your rights") as caught:
            act()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "URI", "--out", "audit"],
        ["audit", "records", "--out", "URI"],
        ["decisions", "URI", "--out", "decisions.csv"],
        ["gallery", "URI", "--out", "sheet.png"],
        ["repair", "URI"],
        ["export", "records", "--format", "parquet", "--out", "URI"],
        ["pull", "URI", "--out", "URI"],
        ["push", "URI", "URI"],
    ],
)
def test_a_uri_in_place_of_a_path_is_refused_and_makes_no_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = "s3://key:hunter2@bucket/set"
    result = CliRunner().invoke(main, [uri if word == "URI" else word for word in arguments])
    assert result.exit_code == 2
    assert "is a URI, expected a path of this machine" in result.output
    assert "hunter2" not in result.output
    assert not list(tmp_path.iterdir())


def test_two_that_push_notice_each_other(records_root, store):
    store.objects["set/.push/another.json"] = json.dumps({"host": "elsewhere"}).encode()
    with pytest.raises(ArtefactError, match=r"a push from elsewhere is under way there, or was killed; .*--take-over"):
        push(records_root, store.uri("set"))
    assert stored(store).keys() == {".push/another.json"}
    push(records_root, store.uri("set"), take_over=True)
    assert stored(store) == tree(records_root)
    with (
        _only_push(StorePlace(store.uri("set")).folder, take_over=False),
        pytest.raises(ArtefactError, match="another process pushes there"),
    ):
        push(records_root, store.uri("set"))


def test_records_that_change_while_they_are_pulled_are_refused(records_root, tmp_path, store, monkeypatch):
    push(records_root, store.uri("set"))

    def fetch_and_change(place, name, *rest):
        if name == "index.parquet":
            store.objects["set/manifest.json"] = store.objects["set/manifest.json"].replace(b'"seed": 0', b'"seed": 1')
        return _fetch(place, name, *rest)

    monkeypatch.setattr("convnext_imagenet.records.pull._fetch", fetch_and_change)
    with pytest.raises(ArtefactError, match="changed"):
        pull(store.uri("set"), tmp_path / "out")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_store_that_is_away_is_a_failure_to_resume(records_root, store, monkeypatch):
    monkeypatch.setattr("convnext_imagenet.base.stores._RETRY_S", 0.3)
    store.faults.dropped = 1.0
    with pytest.raises(FailedError, match="the store keeps failing"):
        push(records_root, store.uri("set"))


def test_the_result_counts_what_moved(records_root, store):
    sizes = [path.stat().st_size for path in (records_root / "train").glob("imagenet*") if path.suffix != ".json"]
    assert push(records_root, store.uri("set")) == Travelled(2, sum(sizes))


def test_grown_records_replace_those_that_they_were_built_onto(records_root, tmp_path, store):
    """Only the new shard travels, into a store and into a directory that hold the old records."""
    uri, out = store.uri("set"), tmp_path / "pulled"
    push(records_root, uri)
    pull(uri, out)
    grown = _grown(records_root, tmp_path / "grown")
    assert push(grown, uri).shards == 1
    assert stored(store) == tree(grown)
    assert pull(uri, out).shards == 1
    assert tree(out) == tree(grown)
    with pytest.raises(ArtefactError, match="holds other records than"):
        push(records_root, uri)


def _grown(parent: Path, root: Path) -> Path:
    """The records of `parent` with a third shard of two rows, by the calls that ingest makes."""
    rows, before = make_rows(9)[7:], read_json(parent / "plan.json")
    names = [f"imagenet-train-0000{k}-of-00002.mindrecord" for k in range(2)]
    plan_id = protocol.begin(root, "records", {"shards": {"train": 1}, "inherited": {"train": names}})
    with protocol.exclusive(root):
        receipts = []
        for name in names:
            old = [
                parent / "train" / f"{Path(name).stem}{end}" for end in (".mindrecord", ".mindrecord.db", ".parquet")
            ]
            staged = [Path(shutil.copy(path, protocol.staging(root, path.name))) for path in old]
            facts = read_json(parent / "train" / f"{Path(name).stem}.json")["facts"]
            receipts.append(protocol.publish(staged, root / "train", Path(name).stem, plan_id, facts))
        path = protocol.staging(root) / "imagenet-train-00002-of-00003.mindrecord"
        write_shard(path, rows, PageLayout(16 << 10, 256 << 10))
        write_shard_index(shard_index_path(path), [index_entry(row, "RGB") for row in rows])
        facts = shard_facts([row.label for row in rows])
        receipts.append(protocol.publish(shard_files(path), root / "train", path.stem, plan_id, facts))
        source = {"verified": True, "parent": {"plan_id": before["plan_id"]}}
        classes = place_of(parent).manifest().classes
        manifest = make_manifest(plan_id, classes, {"train": split_entry(receipts, len(classes))}, source)
        mark_finished(root, write_summary_files(root, manifest, quarantine_bytes([]), []))
    return root


def test_a_shard_that_fails_ends_the_others_before_their_next_piece():
    """Each of the others would go on for ever: only the check ends them."""
    begun = threading.Barrier(3)

    def move(unit: tuple[str, str], check: Check) -> Travelled:
        begun.wait()
        if unit[1] == "bad":
            raise FailedError("the disk is full")
        while True:
            check()

    with pytest.raises(FailedError, match="the disk is full"):
        for_all([("train", "bad"), ("train", "a"), ("train", "b")], move, lambda _: None)


def test_a_pull_asks_before_each_piece_whether_it_is_over(records_root, tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/store"
    push(records_root, uri)

    def stop() -> None:
        raise InterruptedError("over")

    monkeypatch.setattr("convnext_imagenet.base.stores._RETRY_S", 0.0)
    monkeypatch.setattr("convnext_imagenet.records.pull.for_all", lambda units, move, _: move(units[0], stop))
    for read in (lambda: pull(uri, tmp_path / "out"), lambda: verify_stored(StorePlace(uri))):
        with pytest.raises(FailedError, match="over"):
            read()


def test_a_full_disk_is_not_blamed_on_the_store_and_not_tried_again(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    with pytest.raises(FailedError, match=r"/dev/full: cannot be written \(No space left on device\); make room there"):
        StorePlace(f"file://{tmp_path}").folder.download("a", Path("/dev/full"))
