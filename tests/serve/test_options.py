"""What --engine says: where the work runs and what computes, one word for each."""

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.serve import options


@click.command()
@options.prediction
def command(engines: options.Engines, **_: object) -> None:
    """Say what was chosen."""
    click.echo(" ".join(engines))


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", "local mindspore"),
        ("ray", "ray mindspore"),
        ("onnxruntime", "local onnxruntime"),
        ("ray onnxruntime", "ray onnxruntime"),
        ("onnxruntime ray", "ray onnxruntime"),
        ("local mindspore", "local mindspore"),
    ],
)
def test_a_word_for_each(words, chosen):
    result = CliRunner().invoke(command, [part for word in words.split() for part in ("--engine", word)])
    assert result.output.strip() == chosen


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("local ray", "--engine: local and ray exclude each other"),
        ("onnxruntime ray mindspore", "--engine: mindspore and onnxruntime exclude each other"),
        ("torch", "'torch' is not one of"),
    ],
)
def test_two_of_a_kind_and_strangers_are_wrong_usage(words, says):
    result = CliRunner().invoke(command, [part for word in words.split() for part in ("--engine", word)])
    assert result.exit_code == 2
    assert says in result.output
