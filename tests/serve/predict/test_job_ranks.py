"""Ranks that share a prediction job leave the bytes of one, stopped or not."""

import dataclasses
import threading

import pytest

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict.job import LocalRunner, open_job
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.settings import PredictOptions

from ...launch.together import run_together

OPTIONS = PredictOptions(topk=3, part_rows=2, batch_size=2, workers=2)  # 11 inputs: five parts of 2 and one of 1


@pytest.fixture
def whole(fake, folder, tmp_path):
    """The files of the job by one rank."""
    with open_job(fake, list_folder(folder), tmp_path / "whole", OPTIONS) as job:
        job.run(lambda count: None)
    return _bytes(tmp_path / "whole")


def _bytes(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def _predict(count, fake, folder, out, on_progress=lambda count: None, is_stopped=lambda rank: False):
    """What each of `count` ranks returns, whose networks remember their own batches."""
    inputs = list_folder(folder)

    def rank_predicts(ranks):
        own = dataclasses.replace(fake, seen=[])
        with open_job(own, inputs, out, OPTIONS, ranks) as job:
            return job.run(on_progress, LocalRunner(lambda: is_stopped(ranks.own))), len(own.seen)

    return run_together(count, rank_predicts)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_ranks_leave_the_bytes_of_one(fake, folder, tmp_path, whole, count):
    """Of four ranks two take two parts and two take one, of seven one has nothing to do."""
    done = []
    answers = _predict(count, fake, folder, tmp_path / "out", done.append)
    summaries = [summary for summary, _ in answers]
    assert summaries == [summaries[0]] * count
    assert (summaries[0].rows, summaries[0].error_rows) == (11, 5)
    assert (summaries[0].parts, summaries[0].parts_made) == (6, 6)
    assert sum(done) == 11
    assert _bytes(tmp_path / "out") == whole
    assert not (tmp_path / "out" / ".staging").exists()
    scored = [batches for _, batches in answers]
    assert max(scored) <= -(-6 // count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_rank_that_is_stopped_stops_all_and_the_job_goes_on_by_any_number(fake, folder, tmp_path, whole, count):
    out = tmp_path / "out"

    def is_stopped(rank):
        return (out / part_file(count - 1)).exists()  # after the first part of the last rank

    def rank_is_interrupted(ranks):
        with (
            pytest.raises(Interrupted, match=r"stopped by a signal; run the same command again to resume in .*out$"),
            open_job(fake, list_folder(folder), out, OPTIONS, ranks) as job,
        ):
            job.run(lambda count: None, LocalRunner(lambda: is_stopped(ranks.own)))

    run_together(count, rank_is_interrupted)
    assert not protocol.is_finished(out)
    made = len(list(out.glob("part-*.parquet")))
    assert 1 <= made < 6
    assert part_file(count - 1) in {path.name for path in out.iterdir()}
    answers = _predict(4 - count, fake, folder, out)
    assert {summary.parts_made for summary, _ in answers} == {6 - made}
    assert _bytes(out) == whole


def test_a_finished_job_is_not_scored_again_by_any_number_of_ranks(fake, folder, tmp_path, whole):
    out = tmp_path / "whole"
    assert [(summary.parts_made, batches) for summary, batches in _predict(3, fake, folder, out)] == [(0, 0)] * 3
    (out / part_file(4)).unlink()
    answers = _predict(3, fake, folder, out)
    assert [summary.parts_made for summary, _ in answers] == [1] * 3
    assert [batches for _, batches in answers] == [0, 1, 0], "part 4 is rank 1's"
    assert _bytes(out) == whole


def test_a_part_that_is_lost_while_others_work_is_told_by_all(fake, folder, tmp_path):
    """Rank 1 loses what rank 0 has published; no rank calls the job finished."""
    out, is_published = tmp_path / "out", threading.Event()

    def rank_predicts(ranks):
        def lose(count):
            if ranks.own.number == 1 and is_published.wait(60):
                (out / part_file(0)).unlink(missing_ok=True)

        def publish():
            if (out / f"_{part_file(0)}".replace(".parquet", ".json")).exists():
                is_published.set()
            return False

        with (
            pytest.raises(ServeError, match=r"part-00000\.parquet changed during the run; run the same command again"),
            open_job(fake, list_folder(folder), out, OPTIONS, ranks) as job,
        ):
            job.run(lose, LocalRunner(publish))

    run_together(2, rank_predicts)
    assert not protocol.is_finished(out)


def test_a_rank_that_does_not_see_the_first_ones_directory_says_so(fake, folder, tmp_path):
    second = Ranks(Rank(1, 2), lambda numbers: numbers)
    with (
        pytest.raises(
            ArtefactError, match=r"out: the job's first process has created it, .* does not see it; .*all machines"
        ),
        open_job(fake, list_folder(folder), tmp_path / "out", OPTIONS, second),
    ):
        pass
    assert not (tmp_path / "out").exists()
