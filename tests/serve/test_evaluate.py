"""Every row counted once, whatever the batch; what is not what the manifest says is never an accuracy."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.evaluate import Accuracy, EvaluationSettings, evaluate, mean_loss, wilson_interval

from ..launch.together import run_together
from .conftest import TRANSFORM, build_records, picture

IMAGES = [picture(seed) for seed in range(11)]
LABELS = [seed % 7 for seed in range(11)]


@pytest.fixture
def split(tmp_path):
    return Records.open(build_records(tmp_path / "records", IMAGES, LABELS)).split("val")


def _known_answers(fake, rank_of_truth):
    """A network that puts the true class of row i at rank `rank_of_truth[i]`; it tells rows by their order."""
    position = iter(range(len(LABELS)))

    def logits(pixels_NHWC):
        out = np.full((len(pixels_NHWC), 7), 1.0, np.float32)
        for place, picture_HWC in enumerate(pixels_NHWC):
            row = next(position) if picture_HWC.any() else None  # padding is black
            if row is not None:
                others = [index for index in range(7) if index != LABELS[row]]
                order = [*others[: rank_of_truth[row]], LABELS[row], *others[rank_of_truth[row] :]]
                out[place, order] = np.arange(7, 0, -1)
            else:
                out[place, 0] = 99.0  # would count as correct for class 0 if it were counted
        return out

    return dataclasses.replace(fake, logits=logits)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
@pytest.mark.parametrize("workers", [1, 3])
def test_counts_are_exact_for_any_batch_and_any_workers(fake, split, batch_size, workers):
    ranks = [0, 0, 4, 5, 1, 6, 0, 3, 4, 5, 2]
    known = _known_answers(fake, ranks)
    moved = []
    network = known.classifier()
    accuracy = evaluate(network, TRANSFORM, split, batch_size, workers, EvaluationSettings(on_progress=moved.append))
    assert not network.training
    assert dataclasses.replace(accuracy, loss=0.0) == Accuracy(11, top1_correct=3, top5_correct=8, loss=0.0, guesses=5)
    of_rank = [np.log(np.exp(np.arange(7, 0, -1)).sum()) - (7 - rank) for rank in range(7)]
    assert accuracy.loss == pytest.approx(np.mean([of_rank[rank] for rank in ranks]), rel=1e-14)
    assert sum(moved) == 11
    assert {shape[0] for shape in known.seen} == {min(batch_size, 11)}, "one compiled shape"


def test_a_flip_asks_for_the_mirror_image_too(fake, split):
    batches = []

    def logits(pixels_NHWC):
        batches.append(pixels_NHWC)
        is_mirrored = len(batches) % 2 == 0
        return np.eye(7, dtype=np.float32)[[1 if is_mirrored else 0] * len(pixels_NHWC)] * (3 if is_mirrored else 1)

    accuracy = evaluate(
        dataclasses.replace(fake, logits=logits).classifier(), TRANSFORM, split, 4, 2, EvaluationSettings(flip=True)
    )
    assert accuracy.top1_correct == LABELS.count(1), "the mean of both answers counts, not the first"
    assert len(batches) == 6
    for plain, mirrored in zip(batches[::2], batches[1::2], strict=True):
        np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])


def test_fractions_are_divided_once():
    accuracy = Accuracy(rows=500, top1_correct=486, top5_correct=499, loss=0.1)
    assert (accuracy.top1, accuracy.top5) == (0.972, 0.998)


def test_the_order_of_the_losses_changes_no_bit_of_their_mean():
    losses = np.array([1e16, 1.0, 1.0])
    assert mean_loss(losses) == mean_loss(losses[::-1]) == (10**16 + 2) / 3


def test_with_fewer_than_five_classes_all_are_guessed(fake, tmp_path):
    split = Records.open(build_records(tmp_path / "few", IMAGES[:3], [0, 1, 2], classes=3)).split("val")
    three = dataclasses.replace(fake, logits=lambda pixels_NHWC: np.zeros((len(pixels_NHWC), 3), np.float32))
    accuracy = evaluate(three.classifier(), TRANSFORM, split, 2, 1)
    assert accuracy == Accuracy(rows=3, top1_correct=1, top5_correct=3, loss=np.log(3), guesses=3)


def test_a_network_of_nan_is_never_correct(fake, split):
    broken = dataclasses.replace(fake, logits=lambda pixels_NHWC: np.full((len(pixels_NHWC), 7), np.nan, np.float32))
    accuracy = evaluate(broken.classifier(), TRANSFORM, split, 4, 1)
    assert (accuracy.top5_correct, np.isnan(accuracy.loss)) == (0, True)


@dataclasses.dataclass(frozen=True)
class _Tampered:
    """A split whose reader loses, repeats, relabels or damages a row."""

    split: object
    tamper: object

    def __getattr__(self, name):
        return getattr(self.split, name)

    def read(self, order):
        return iter(self.tamper(list(self.split.read(order))))


@pytest.mark.parametrize(
    "tamper",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows[:7], rows[0], *rows[8:]],  # of the same class
        lambda rows: [*rows, rows[3]],
        lambda rows: [{**row, "label": 0} for row in rows],
    ],
    ids=["lost", "replaced", "repeated", "relabelled"],
)
def test_rows_that_are_not_the_manifests_are_a_bug(fake, split, tamper):
    with pytest.raises(RuntimeError, match="the manifest"):
        evaluate(fake.classifier(), TRANSFORM, _Tampered(split, tamper), 4, 1)


def test_a_row_that_cannot_be_decoded_names_itself(fake, split):
    broken = _Tampered(split, lambda rows: [{**row, "image": row["image"][:50]} for row in rows])
    with pytest.raises(ServeError, match=r"sample_id 0 .*convnext-records verify"):
        evaluate(fake.classifier(), TRANSFORM, broken, 4, 1)


def test_the_pictures_of_this_test_are_never_black():
    assert all(decode_rgb(image).any() for image in IMAGES)


def _arbitrary(pixels_NHWC):
    """Right now and then, and the same for a picture in any batch."""
    return np.sin(np.arange(1, 8) * pixels_NHWC.mean((1, 2, 3), np.float64)[:, None]).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
def test_ranks_that_share_a_split_all_find_what_one_does(fake, split, count, batch_size):
    """11 rows: batches and ranks never divide them, and some ranks have nothing to do."""
    fake = dataclasses.replace(fake, logits=_arbitrary)
    alone = evaluate(fake.classifier(), TRANSFORM, split, batch_size, 1)
    assert 0 < alone.top1_correct < alone.top5_correct < 11, "otherwise a wrong sum might look the same"
    shapes, done = [], []

    def rank_evaluates(ranks):
        seen = dataclasses.replace(fake, seen=[])
        found = evaluate(
            seen.classifier(), TRANSFORM, split, batch_size, 1, EvaluationSettings(ranks=ranks, on_progress=done.append)
        )
        shapes.append(set(seen.seen))
        return found

    assert run_together(count, rank_evaluates) == [alone] * count
    assert sum(done) == 11
    assert set.union(*shapes) == {(min(batch_size, 11), 32, 32, 3)}, "the batches of one rank"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("after", [0, 1])
def test_a_rank_that_is_stopped_stops_all(fake, split, count, after):
    """The last one is, after `after` batches; the others may have counted all of theirs."""

    def rank_evaluates(ranks):
        asked = []

        def is_stopped():
            asked.append(ranks.own.number)
            return ranks.own.number == count - 1 and len(asked) > after

        with pytest.raises(Interrupted, match="stopped while evaluating; run the same command again"):
            evaluate(fake.classifier(), TRANSFORM, split, 2, 1, EvaluationSettings(ranks=ranks, is_stopped=is_stopped))
        return len(asked)

    asked = run_together(count, rank_evaluates)
    assert asked[-1] == after + 1


@pytest.mark.parametrize("count", [2, 3])
def test_rows_that_two_ranks_count_are_a_bug(fake, split, count):
    """As if each rank took a share that begins too early."""

    def rank_evaluates(ranks):
        share = ranks.own.share(3)
        rows = [row for row in split.read(range(11)) if row["sample_id"] in range(4 * share.start - 1, 4 * share.stop)]
        with pytest.raises(RuntimeError, match="the manifest"):
            evaluate(
                fake.classifier(), TRANSFORM, _Tampered(split, lambda _: rows), 4, 1, EvaluationSettings(ranks=ranks)
            )

    run_together(count, rank_evaluates)


def test_rows_that_are_left_out_change_only_the_rest(fake, split):
    ranks = [0, 0, 4, 5, 1, 6, 0, 3, 4, 5, 2]
    whole = evaluate(_known_answers(fake, ranks).classifier(), TRANSFORM, split, 4, 2)
    both = evaluate(_known_answers(fake, ranks).classifier(), TRANSFORM, split, 4, 2, left_out={0, 5, 10})
    assert dataclasses.replace(both, rest=None) == whole
    assert dataclasses.replace(both.rest, loss=0.0) == Accuracy(8, top1_correct=2, top5_correct=6, loss=0.0)
    of_rank = [np.log(np.exp(np.arange(7, 0, -1)).sum()) - (7 - rank) for rank in range(7)]
    kept = [of_rank[rank] for row, rank in enumerate(ranks) if row not in (0, 5, 10)]
    assert both.rest.loss == pytest.approx(np.mean(kept), rel=1e-14)


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (486, 500, 0.9535, 0.9832)],
)
def test_wilson_intervals_are_scipys(correct, rows, low, high):
    expected = stats.binomtest(correct, rows).proportion_ci(method="wilson")
    assert wilson_interval(correct, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(correct, rows) == pytest.approx((low, high), abs=1e-4)
