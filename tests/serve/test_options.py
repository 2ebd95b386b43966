"""What --engine says: where the work runs and what computes, one word for each."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.serve import options
from convnext_imagenet.serve.settings import (
    ClusterOptions,
    EngineChoice,
    ErrorLimit,
    InputOptions,
    PredictOptions,
    TransformOptions,
)


@click.command()
@options.engine
def command(engine: EngineChoice) -> None:
    """Print what was chosen."""
    click.echo(" ".join(engine))


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


def test_options_of_one_subject_arrive_as_one_value():
    arrived = {}

    @click.command()
    @options.transform
    @options.prediction
    @options.cluster
    def grouped(**values: object) -> None:
        """Keep what the command gets."""
        arrived.update(values)

    result = CliRunner().invoke(grouped, ["--workers", "2"])
    assert result.exit_code == 0, result.output
    assert arrived == {
        "transform": TransformOptions(),
        "predict_options": PredictOptions(workers=2),
        "cluster": ClusterOptions(),
    }
    words = "--size 64 --crop-pct 0.5 --resize squash --topk 2 --part-rows 9 --features --logits --image-timeout 3 "
    words += "--flip --batch-size 8 --workers 1 --address a:1 --per-actor CPU=1 --per-actor GPU=1 "
    words += "--retry-for 2 --stop-after 0 --readers 4"
    CliRunner().invoke(grouped, words.split())
    assert arrived["transform"] == TransformOptions(64, 0.5, "squash")
    assert arrived["predict_options"] == PredictOptions(
        topk=2,
        part_rows=9,
        batch_size=8,
        workers=1,
        readers=4,
        flip=True,
        extras=("features", "logits"),
        timeout_s=3,
        retry_s=2,
        stop_after=0,
    )
    assert arrived["cluster"] == ClusterOptions("a:1", ("CPU=1", "GPU=1"))


@click.command()
@options.max_errors
@options.retry
def limited(max_errors: ErrorLimit, retry: tuple[str, ...]) -> None:
    """Print what was chosen."""
    click.echo(f"{max_errors} {max_errors.allows(1, 200)} {max_errors.allows(2, 200)} {' '.join(retry)}".strip())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "0 False False"),
        ("--max-errors 1", "1 True False"),
        ("--max-errors 0.5%", "0.5% True False"),
        ("--max-errors 100%", "100% True True"),
        ("--retry read_error,timeout", "0 False False read_error timeout"),
        ("--max-errors 0.5", "neither a number of rows"),
        ("--max-errors -1", "neither a number of rows"),
        ("--max-errors 101%", "nor a percentage"),
        ("--max-errors nan%", "nor a percentage"),
        ("--retry ok", "'ok' is none of read_error"),
    ],
)
def test_error_rows_are_limited_by_number_or_share_and_named_by_status(words, says):
    assert says in CliRunner().invoke(limited, words.split()).output


@pytest.mark.parametrize(("words", "kept"), [("id", ["id"]), ("id, label,id,", ["id", "label"]), ("", [])])
def test_a_column_that_is_named_twice_is_kept_once(words, kept):
    @click.command()
    @options.inputs
    def keeping(choice: InputOptions) -> None:
        """Print the columns to keep."""
        click.echo(" ".join(choice.keep))

    assert CliRunner().invoke(keeping, ["--keep", words]).output.split() == kept


@pytest.mark.parametrize(("words", "code"), [("--coverage 0.5", 2), ("--coverage 0.5 --calibration r", 0), ("", 0)])
def test_a_coverage_without_a_calibration_is_wrong_usage(words, code):
    @click.command()
    @options.prediction
    def predicting(predict_options: PredictOptions) -> None:
        """Print the coverage."""
        click.echo(predict_options.coverage)

    assert CliRunner().invoke(predicting, words.split()).exit_code == code


@pytest.mark.parametrize("value", ["s3://b/x", "file:///a", "file:/a"])
def test_a_uri_stays_text_and_a_path_is_a_path(value):
    assert options.PATH_OR_URI.convert(value, None, None) == value
    assert options.PATH_OR_URI.convert("a/b", None, None) == Path("a/b")
