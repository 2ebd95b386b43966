"""Evaluation on records of other classes: two numbers, by wnid or by a table, against a count in plain Python."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.class_map import ClassMap, class_map_lines, map_classes
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.evaluate import evaluate_subset

from .conftest import build_records, class_table, picture, write_checkpoint


def plain(mapped: ClassMap, logits: np.ndarray, label: int) -> tuple[int, float, int, float]:
    """The definitions, row by row: rank and loss over all outputs, then among the records' classes."""
    own = mapped.outputs[label]
    best = max(own, key=lambda k: (logits[k], -k))
    shares = np.exp(logits.astype(np.float64))
    order = sorted(range(len(logits)), key=lambda k: (-logits[k], k))
    used = sorted({k for found in mapped.outputs for k in found})
    scores = {c: max(logits[k] for k in found) for c, found in enumerate(mapped.outputs) if found}
    classes = sorted(scores, key=lambda c: (-scores[c], c))
    everything = -np.log(shares[list(own)].sum() / shares.sum())
    restricted = -np.log(shares[list(own)].sum() / shares[used].sum())
    return order.index(best), everything, classes.index(label), restricted


def test_both_measures_are_their_definitions():
    rng = np.random.default_rng(0)
    mapped = ClassMap(("a", "b", "c", "d"), ((0, 3), (5,), (), (2, 7, 9)), 12)
    logits = rng.integers(-3, 4, (300, 12)).astype(np.float32)  # whole numbers, so that ties occur
    labels = rng.choice([0, 1, 3], 300)
    (ranks, losses), (own_ranks, own_losses) = mapped.measure(logits, labels)
    expected = [plain(mapped, row, label) for row, label in zip(logits, labels, strict=True)]
    assert list(zip(ranks, own_ranks, strict=True)) == [(a, c) for a, _, c, _ in expected]
    np.testing.assert_allclose(np.stack([losses, own_losses], 1), [(b, d) for _, b, _, d in expected], rtol=1e-12)


@pytest.fixture
def network(fake):
    """Seven classes; pictures of other brightness have other answers."""
    return fake


def records_of(tmp_path, wnids, labels):
    """Records with these classes; a picture for each label."""
    root = build_records(tmp_path / "records", [picture(n) for n in range(len(labels))], labels, classes=len(wnids))
    return root, tuple(ClassEntry(index, wnid, wnid) for index, wnid in enumerate(wnids))


def test_fewer_classes_are_matched_by_wnid_and_none_is_forgotten(tmp_path, network):
    root, classes = records_of(tmp_path, ["n00000005", "n00000001", "n00000099"], [0, 1, 2, 1, 0, 0, 2])
    mapped = map_classes(network, classes, root)
    assert (mapped.outputs, mapped.lacking) == (((5,), (1,), ()), ("n00000099",))
    split = Records.open(root).split("val")
    everything, restricted = evaluate_subset(mapped, network.classifier(), network.card.transform, split, 4, 1)
    assert everything.rows == restricted.rows == 5
    assert everything.top1_correct <= restricted.top1_correct
    assert restricted.guesses == 2
    assert restricted.top5_correct == 5
    assert everything.loss >= restricted.loss


def test_a_table_maps_several_outputs_to_a_class(tmp_path, network):
    root, classes = records_of(tmp_path, ["n10000000", "n10000001"], [0, 1])
    table = tmp_path / "map.txt"
    table.write_text("# finer classes\nn00000000 n10000000\nn00000001 n10000000\nn00000006 n10000001\n")
    assert map_classes(network, classes, root, table).outputs == ((0, 1), (6,))
    for line, fault in (
        ("n00000000", "has 1 word, not two wnids"),
        ("n00000042 n10000000", "n00000042 is no class of the network"),
        ("n00000000 n00000000", "n00000000 is no class of the records"),
        ("n00000000 n10000000\nn00000000 n10000001", "line 2: n00000000 is mapped twice"),
    ):
        table.write_text(line + "\n")
        with pytest.raises(ServeError, match=fault):
            map_classes(network, classes, root, table)


def test_records_that_share_no_class_are_refused_and_equal_ones_need_no_map(tmp_path, network):
    root, classes = records_of(tmp_path, ["n90000000"], [0])
    with pytest.raises(ServeError, match="They differ first at index 0"):
        map_classes(network, classes, root)
    own = tuple(ClassEntry(index, *entry) for index, entry in enumerate(class_table(7)))
    assert map_classes(network, own, root) is None
    bare = dataclasses.replace(network.card, classes=tuple(("", str(n)) for n in range(7)))
    with pytest.raises(ServeError, match="without wnids"):
        map_classes(dataclasses.replace(network, card=bare), classes, root)


def test_the_command_prints_two_numbers(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "w.weights.safetensors", classes=7)
    root = build_records(tmp_path / "records", [picture(n) for n in range(6)], [0, 1, 2, 0, 1, 2], classes=3)
    result = CliRunner().invoke(main, ["eval", str(checkpoint), "--records", str(root), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "classes matched by wnid: 3 of the network's 7 outputs are 3 classes of the records" in result.output
    assert "over all 7 outputs: {'Top1-Acc': " in result.output
    assert "restricted to the classes of the records: {'Top1-Acc': " in result.output


def test_numbers_are_ranks_of_the_1000_wnids_and_of_no_other_network(tmp_path, network):
    def of(count: int, order: int = 1):
        table = tuple(sorted((f"n{7 * n % 1009:08d}", "x") for n in range(count)))[::order]
        config = dataclasses.replace(network.card.config, num_classes=count)
        return dataclasses.replace(network, card=dataclasses.replace(network.card, config=config, classes=table))

    numbers = [ClassEntry(index, number, number) for index, number in enumerate(("0", "2", "10", "999"))]
    mapped = map_classes(of(1000), numbers, tmp_path)
    assert (mapped.outputs, mapped.lacking) == (((0,), (2,), (10,), (999,)), ())
    line = (
        "classes matched by number, as ImageNet-V2 names its folders: class N of the records is the Nth wnid, from 0: 4"
    )
    assert class_map_lines(mapped, 0)[0].startswith(line)
    others = [ClassEntry(index, number, number) for index, number in enumerate(("0", "1000"))]
    padded = [ClassEntry(0, "007", "007"), ClassEntry(1, "008", "008")]
    for checkpoint, entries in ((of(999), numbers), (of(1000, -1), numbers), (of(1000), others), (of(1000), padded)):
        with pytest.raises(ServeError, match="differ first at index 0"):
            map_classes(checkpoint, entries, tmp_path)
