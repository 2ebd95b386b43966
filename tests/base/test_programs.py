"""Another of our programs, run to its end: its output, its exit codes, and that it stops when it should."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnext_imagenet.base import programs
from convnext_imagenet.base.errors import ArtefactError, FailedError, Interrupted
from convnext_imagenet.base.programs import run_program


def test_a_program_returns_its_output():
    assert run_program(["records", "audit", "--help"], lambda: False, True).startswith("Usage: ")
    assert run_program(["--version"], lambda: False) == ""


def test_the_line_of_a_failed_program_is_on_standard_error(capfd, tmp_path):
    with pytest.raises(ArtefactError, match=r"`convnext records show` ended with exit code 1; its line above"):
        run_program(["records", "show", str(tmp_path / "none")], lambda: False)
    assert "none" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("sys.exit(75)", Interrupted, "stopped by a signal; run the same command again"),
        ("sys.exit(74)", FailedError, "exit code 74; run the same command again"),
        ("os.kill(os.getpid(), signal.SIGKILL)", FailedError, "ended with signal 9"),
        ("sys.exit(3)", ArtefactError, "exit code 3"),
    ],
)
def test_how_a_program_ends_is_how_the_command_ends(monkeypatch, ending, error, message):
    monkeypatch.setattr(programs, "_START", f"import os, signal, sys\n{ending}\n")
    with pytest.raises(error, match=message) as raised:
        run_program(["records", "show"], lambda: False)
    assert type(raised.value) is error


def test_a_stop_is_passed_on_once_and_the_program_saves_its_work(monkeypatch, tmp_path):
    saved = tmp_path / "saved"
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.6), open(sys.argv[2], 'a').write('x'), sys.exit(75)))\n"
        "pathlib.Path(sys.argv[2] + '.ready').touch()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(programs, "_START", program)
    with pytest.raises(Interrupted):
        run_program([str(saved)], lambda: saved.with_name("saved.ready").exists())
    assert saved.read_text() == "x"


def test_a_program_does_not_outlive_a_killed_command(tmp_path):
    pid_file = tmp_path / "pid"
    program = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "from convnext_imagenet.base import programs\n"
        f"programs._START = programs._START.split('from convnext')[0] + {program!r}\n"
        "programs.run_program([], lambda: False)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    pid = int(pid_file.read_text())
    command.send_signal(signal.SIGKILL)
    command.wait()
    while _is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _is_alive(pid)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("has_script", [True, False])
def test_a_program_can_be_started_again_whether_a_script_started_it_or_not(monkeypatch, tmp_path, has_script):
    script = tmp_path / "convnext"
    if has_script:
        script.write_text("from convnext_imagenet.base.cli_umbrella import main\nmain()\n")
    monkeypatch.chdir(tmp_path / "..")
    monkeypatch.setattr(sys, "argv", [str(script) if has_script else "convnext", "records", "show", "--help"])
    done = subprocess.run(programs.own_command(), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: convnext records show")
