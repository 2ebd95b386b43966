"""What the options of a cluster refuse before any connection."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.launch.cli_cluster import address_option, engine_option, is_given, refuse_unused
from convnext_imagenet.launch.cluster.session import connected_to_ray, import_ray
from convnext_imagenet.launch.errors import LaunchError


@click.command()
@engine_option
@address_option
@click.option("--workers", default=3)
def command(engine: str, address: str, workers: int) -> None:
    refuse_unused(engine, address=address)
    click.echo(f"{engine} {is_given('workers')}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "local False"),
        (["--workers", "3"], "local True"),
        (["--engine", "ray", "--address", "a:1"], "ray False"),
    ],
)
def test_defaults_are_told_from_choices(words: list[str], said: str):
    assert CliRunner().invoke(command, words).output.strip() == said


def test_an_address_without_the_engine_is_wrong_usage():
    result = CliRunner().invoke(command, ["--address", "a:1"])
    assert result.exit_code == 2
    assert "--address: works only with --engine ray" in result.output


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LaunchError, match=r"pip install 'convnext_imagenet\[ray\]'"):
        import_ray()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", r"--address 127.0.0.1:9: does not answer \(.*refused"),
        ("somewhere", "expected HOST:PORT"),
        ("ray://host:10001x", "expected HOST:PORT"),
        ("127.0.0.1:70000", "expected HOST:PORT"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused_at_once(address: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("convnext_imagenet.launch.cluster.session.import_ray", lambda: None)
    with pytest.raises(LaunchError, match=message), connected_to_ray(address, 1):
        pytest.fail("joined a cluster that is not there")


def test_nothing_imports_ray_before_a_cluster_is_asked_for(tmp_path: Path):
    script = tmp_path / "load.py"
    script.write_text(
        "import sys\n"
        "import convnext_imagenet.ingest.cli, convnext_imagenet.serve.cli\n"
        "import convnext_imagenet.launch.cluster.units\n"
        "sys.exit('ray' in sys.modules or 'mindspore' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, str(script)], check=False).returncode == 0
