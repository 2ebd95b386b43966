"""`convnext-ingest build` for its users: output, exit codes, kills, restarts, wrong input."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from convnext_imagenet.ingest.cli import main
from convnext_imagenet.ingest.doubts import doubts
from convnext_imagenet.ingest.make_plan import make_plan
from convnext_imagenet.records.cli import main as records_main
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records

COMMAND = [str(Path(sys.executable).with_name("convnext-ingest")), "build"]


def _run(*arguments: object):
    return CliRunner().invoke(main, ["build", *map(str, arguments)])


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _options(out: Path, workers: int) -> list[str]:
    return ["--out", str(out), "--classes", "found", "--workers", str(workers)]


def _start(tree: Path, out: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(tree), *_options(out, workers=1)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_first_receipt(out: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 30
    while not list(out.glob("*/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no shard within 30 s"
        time.sleep(0.002)


def _wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def reference(wide_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the wide tree, made by one worker without any accident."""
    out = tmp_path_factory.mktemp("reference") / "records"
    result = _run(wide_tree, *_options(out, workers=1))
    assert result.exit_code == 0, result.output
    return out


def test_records_are_whole(reference: Path):
    assert verify_records(reference).problems == ()
    manifest = Records.open(reference).manifest
    assert {name: (split.rows, split.quarantined) for name, split in manifest.splits.items()} == {
        "train": (1028, 2),
        "val": (6, 0),
    }
    assert len(manifest.splits["train"].shards) == 3


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_place_locale_or_hash_seed(reference: Path, wide_tree: Path, tmp_path: Path):
    tree = shutil.copytree(wide_tree, tmp_path / "elsewhere", copy_function=os.link)
    environment = os.environ | {"LC_ALL": "C", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [*COMMAND, str(tree), *_options(tmp_path / "out", workers=2)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert _digests(tmp_path / "out") == _digests(reference)


@pytest.mark.slow
def test_killed_ingest_goes_on_to_the_same_bytes(reference: Path, wide_tree: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = _start(wide_tree, out)
    _wait_for_first_receipt(out, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _wait_until_gone(workers)
    assert not (out / "_SUCCESS").exists()
    result = _run(wide_tree, *_options(out, workers=1))
    assert result.exit_code == 0, result.output
    assert re.search(r"resuming, finished shards: [1-4] of 4", result.output)
    assert _digests(out) == _digests(reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_all_processes_ends_the_ingest_quietly(wide_tree: Path, tmp_path: Path, number: signal.Signals):
    process = _start(wide_tree, tmp_path / "out")
    _wait_for_first_receipt(tmp_path / "out", process)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    _wait_until_gone(workers)
    assert not (tmp_path / "out" / ".staging").exists()


@pytest.mark.slow
def test_dead_worker_ends_the_ingest_with_one_clear_line(wide_tree: Path, tmp_path: Path):
    process = _start(wide_tree, tmp_path / "out")
    _wait_for_first_receipt(tmp_path / "out", process)
    for child in psutil.Process(process.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 74
    assert "Error: a worker process died" in errors
    assert "Traceback" not in errors


def test_finished_records_are_left_alone(reference: Path, wide_tree: Path):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.name != ".lock"}
    result = _run(wide_tree, *_options(reference, workers=1))
    assert result.exit_code == 0
    assert "already finished" in result.output
    after = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.name != ".lock"}
    assert {path for path in before if path != reference and after[path] != before[path]} == set()


def test_output_says_what_was_found_and_done_and_what_comes_next(raw_tree: Path, tmp_path: Path):
    (raw_tree / "train" / ".DS_Store").write_bytes(b"x")
    (raw_tree / "train" / "n00000010" / "n00000010_0.JPEG").write_bytes(b"x")
    result = _run(raw_tree, *_options(tmp_path / "out", workers=1))
    assert result.exit_code == 0, result.output
    for text in (
        "train: 3 class folders, 18 images",
        "val: flat, 8 images",
        "devkit: ILSVRC2012_devkit_t12.tar.gz",
        "left aside, no images: 1: .DS_Store (1)",
        "3 classes, 25 images; labels verified against the devkit",
        "val: 1 image of other classes left out",
        "finished, 17 train, 7 val images",
        "in quarantine: 1, listed in",
        "train/n00000010/n00000010_0.JPEG  unsupported",
        f"to train: convnext-train run CONFIG --records {tmp_path / 'out'} --out RUN",
    ):
        assert text in result.output
    again = _run(raw_tree, "--out", tmp_path / "out", "--classes", "found", "--seed", "1")
    assert again.exit_code == 1
    assert "belongs to another run (differs in: seed)" in again.output


def test_what_is_allowed_but_doubtful_is_one_line_each(tmp_path: Path, pieces):
    for name in ("Cat", "cat", "10", "9"):
        for split in ("train", "val")[: 1 if name == "9" else 2]:
            (tmp_path / "raw" / split / name).mkdir(parents=True)
            (tmp_path / "raw" / split / name / "a.jpg").write_bytes(pieces.jpeg(1))
    result = _run(tmp_path / "raw", *_options(tmp_path / "out", workers=1), "--unverified")
    assert result.exit_code == 0, result.output
    for text in (
        "val: no image of 1 class: 9",
        "classes that differ only by case: Cat, cat",
        "train and val share images: 1 set of exact copies, listed in",
    ):
        assert text in result.output
    shown = CliRunner().invoke(records_main, ["show", str(tmp_path / "out"), "--classes"]).output
    assert re.search(r"^ +1  9 +1 +0  9$", shown, re.MULTILINE), shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "devkit" not in page.partition("Provenance")[0].replace("verified against", "")
    assert "<h1>Records</h1>" in page


def test_folders_of_numbers_in_the_order_of_text_are_named(pieces):
    tree = pieces.tree({str(k): ["a.jpg"] for k in range(12)}, {str(k): ["b.jpg"] for k in range(12)})
    plan = make_plan(tree, "found", unverified=True, devkit=None, seed=0)
    assert list(doubts(plan)) == ["class folders are numbers, but sorted as text: class index 2 is folder 10"]


def test_too_many_bad_images_exit_with_3_and_are_accepted_afterwards(raw_tree: Path, tmp_path: Path):
    for number in range(2):
        (raw_tree / "train" / "n00000010" / f"n00000010_{number}.JPEG").write_bytes(b"")
    options = _options(tmp_path / "out", workers=1)
    result = _run(raw_tree, *options)
    assert result.exit_code == 3
    assert "too many bad images: 2 in quarantine, 1 allowed" in result.output
    assert _run(raw_tree, *options, "--max-quarantine", "2").exit_code == 0


def _truncate_devkit(root: Path) -> None:
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (shutil.rmtree, [], "no such folder; pass the folder of the raw images"),
        (lambda root: None, [], "the devkit has 4 classes, but --classes all requires the official 1000"),
        (lambda root: None, ["--classes", "fond"], "--classes fond: cannot be read as a file"),
        (lambda root: None, ["--classes", "found", "--devkit", "/nowhere.tar.gz"], "/nowhere.tar.gz: cannot be read"),
        (lambda root: None, ["--unverified"], "the images of val are in no class folders"),
        (_truncate_devkit, ["--classes", "found"], "truncated, or not a tar.gz file"),
        (
            lambda root: (root / "train/n00000010").rename(root / "train/n0000010"),
            ["--classes", "found"],
            "its files have the names of n00000010, so rename the folder",
        ),
    ],
)
def test_wrong_input_gives_one_line_and_writes_nothing(raw_tree: Path, tmp_path: Path, damage, options, message: str):
    damage(raw_tree)
    result = _run(raw_tree, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_folder_with_other_files_is_refused(raw_tree: Path, tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("x")
    result = _run(raw_tree, *_options(tmp_path / "home", workers=1))
    assert result.exit_code == 1
    assert "not empty, and not created by this program (it holds 'letter.txt')" in result.output


@pytest.mark.parametrize("options", [["--workers", "0"], ["--seed", "-1"], ["--max-quarantine", "-1"], ["--sed", "1"]])
def test_wrong_options_are_usage_errors(raw_tree: Path, tmp_path: Path, options: list[str]):
    assert _run(raw_tree, "--out", tmp_path / "out", *options).exit_code == 2


def test_help_answers_without_heavy_imports():
    code = (
        "import sys; from convnext_imagenet.ingest.cli import main\n"
        "try: main(['build', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'mindspore', 'scipy', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max-quarantine" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_real_images_of_every_size_are_stored(shared_data: Path, tmp_path: Path):
    result = _run(shared_data / "fullsize", *_options(tmp_path / "out", workers=1))
    assert result.exit_code == 0, result.output
    assert "finished, 246 train, 4 val images" in result.output
    assert verify_records(tmp_path / "out").problems == ()
