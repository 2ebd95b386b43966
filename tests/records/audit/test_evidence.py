"""What an audit asks our other programs for, what it does with their answers, and what it refuses. No program runs."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.records.audit.evidence import (
    Asked,
    Folds,
    Network,
    check_folds,
    gather,
    open_network,
    predict_folds,
)
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.sources import open_source
from convnext_imagenet.records.cli import main
from convnext_imagenet.records.folds import folds_of
from convnext_imagenet.records.reader import Records

from .records_of_copies import WNIDS, finished_predictions, records_of_copies


class Programs:
    """Stands in for our programs: writes what they would write, and notes how they were called."""

    def __init__(self, root, wnids=WNIDS, trained_on=""):
        self.records, self.wnids, self.trained_on = Records.open(root), wnids, trained_on
        self.calls, self.stop_at = [], None

    def __call__(self, arguments, returns_output):
        self.calls.append(list(arguments))
        if self.stop_at == len(self.calls):
            raise Interrupted("stopped by a signal")
        if arguments[:3] == ("serve", "weights", "inspect"):
            provenance = {"records": {"manifest_sha256": self.trained_on}} if self.trained_on else {}
            classes = [[wnid, wnid] for wnid in self.wnids]
            return json.dumps(
                {"path": arguments[3], "classes": classes, "provenance": provenance, "values_sha256": "1"}
            )
        if arguments[:2] == ("train", "suggest"):
            return "# a configuration\n"
        option = {name: value for name, value in itertools.pairwise(arguments) if name.startswith("--")}
        out = Path(option["--out"])
        if arguments[:2] == ("train", "run"):
            protocol.begin(out, "run", {"config": arguments[2]})
            protocol.finish(out, "run", {})
            return ""
        fold = int(Path(arguments[2]).parent.name[0]) if "folds" in arguments[2] else 0
        finished_predictions(out, self.records, option["--split"], extras=_extras(arguments), sure_of=fold % 2)
        return ""


def _extras(arguments):
    return tuple(name.removeprefix("--") for name in arguments if name in ("--features", "--logits"))


@pytest.fixture
def root(tmp_path):
    return records_of_copies(tmp_path / "records")


def test_a_network_scores_every_split_and_judges_those_it_has_not_seen(tmp_path, root):
    programs, source = Programs(root), open_source(root)
    network = open_network(Path("net"), source, (), programs)
    assert network.unseen == ("val",)
    evidence = gather(source, Asked(network=network), tmp_path / "audit", programs)
    assert [each.split for each in evidence.features] == ["train", "val"]
    assert [each.split for each in evidence.probabilities] == ["val"]
    asked = {call[call.index("--split") + 1]: _extras(call) for call in programs.calls[1:]}
    assert asked == {"train": ("features",), "val": ("features", "logits")}
    before = len(programs.calls)
    gather(source, Asked(network=network), tmp_path / "audit", programs)
    assert len(programs.calls) == before, "what is finished is not computed again"


@pytest.mark.parametrize(
    ("wnids", "trained_on", "unseen", "message"),
    [
        ((*WNIDS, "n3"), "", (), "network of other classes .3; the records have 2.; class 2 is n3 there and nothing"),
        (("n9", WNIDS[1]), "", (), "class 0 is n9 there and n00000001"),
        ((), "", (), "network of other classes .0"),
        (WNIDS, "", ("test",), "--unseen test: no such split; the records have train, val"),
        (WNIDS, "these", ("train",), "was trained on these records; pass --folds"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_any_work(root, wnids, trained_on, unseen, message):
    programs = Programs(root, wnids, Records.open(root).manifest_sha256 if trained_on else "")
    with pytest.raises(ArtefactError, match=message):
        open_network(Path("net"), open_source(root), unseen, programs)
    assert len(programs.calls) == 1


def test_each_row_of_train_is_judged_by_the_network_that_was_trained_without_it(tmp_path, root):
    programs, source = Programs(root), open_source(root)
    folded = predict_folds(source, Folds(3, "auto", 2), tmp_path / "audit", programs)
    train = Records.open(root).split("train")
    folds = folds_of(train, 3)
    assert len(set(folds.tolist())) == 3
    judged = {}
    for numbers, probabilities in folded.parts():
        judged |= dict(zip(numbers.tolist(), probabilities.argmax(1).tolist(), strict=True))
    assert judged == {row: int(fold % 2) for row, fold in enumerate(folds.tolist())}
    assert [call[call.index("--set") + 1] for call in programs.calls if call[0] == "train" and "--set" in call] == [
        f"data.leave_out={fold}/3" for fold in (1, 2, 3)
    ]
    assert {call[2] for call in programs.calls if call[:2] == ["train", "run"]} == {
        str(tmp_path / "audit" / "folds" / "config.toml")
    }


def test_copies_in_train_share_a_fold_and_the_training_hears_of_it(tmp_path, root):
    programs, source = Programs(root), open_source(root)
    train, copies = Records.open(root).split("train"), [(0, 12), (5, 4), (5, 9)]  # 12 is in val
    alone = folds_of(train, 3)
    folded = predict_folds(source, Folds(3, "demo", 2), tmp_path / "audit", programs, copies)
    assert len({*alone[[4, 5, 9]].tolist()}) > 1
    assert len({*folded.fold[[4, 5, 9]].tolist()}) == 1
    (setting,) = {call[-1] for call in programs.calls if call[:2] == ["train", "run"]}
    path = Path(setting.removeprefix("data.copies="))
    assert path.parent == tmp_path / "audit" / "folds"
    assert folds_of(train, 3, path).tolist() == folded.fold.tolist()
    others = [row for row in range(12) if row not in (4, 5, 9)]
    assert folded.fold[others].tolist() == alone[others].tolist()


def test_folds_resume_exactly_where_they_were_stopped(tmp_path, root):
    source, folds, whole = open_source(root), Folds(2, "auto", 2), Programs(root)
    predict_folds(source, folds, tmp_path / "whole", whole)
    assert [call[:2] for call in whole.calls] == [
        ["train", "suggest"], ["train", "run"], ["serve", "predict"], ["train", "run"], ["serve", "predict"],
    ]  # fmt: skip
    for stop_at in range(1, 6):
        programs, out = Programs(root), tmp_path / f"stopped-{stop_at}"
        programs.stop_at = stop_at
        with pytest.raises(Interrupted):
            predict_folds(source, folds, out, programs)
        evidence = predict_folds(source, folds, out, programs)
        assert len(programs.calls) == 6, "only the stopped program ran twice"
        assert sum(len(numbers) for numbers, _ in evidence.parts()) == 12


def test_folds_need_rows_and_records(tmp_path, root):
    with pytest.raises(ArtefactError, match="train has only 12 rows"):
        check_folds(Folds(7, "auto", 2), open_source(root))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    for refuse in (
        lambda: check_folds(Folds(2, "auto", 2), open_source(folder)),
        lambda: open_network(Path("net"), open_source(folder), (), Programs(root)),
    ):
        with pytest.raises(ArtefactError, match="a network examines RECORDS only"):
            refuse()


def test_another_network_or_other_folds_are_another_audit(tmp_path, root):
    source, out = open_source(root), tmp_path / "audit"
    network = Network(Path("net"), "1" * 64, ("val",))
    with open_audit(source, Asked(network=network), root, out, 1):
        pass
    for asked, message in (
        (Asked(), "network"),
        (Asked(network=Network(Path("net"), "2" * 64, ("val",))), "network.sha256"),
        (Asked(network=network, folds=Folds(2, "auto", 2)), "folds"),
    ):
        with (
            pytest.raises(ArtefactError, match=rf"belongs to another run .*{message}"),
            open_audit(source, asked, root, out, 1),
        ):
            pass
    twice = Asked(network=Network(Path("net"), "1", ("train",)), folds=Folds(2, "auto", 2))
    with (
        pytest.raises(ArtefactError, match=r"labels of train: .* name this split twice"),
        open_audit(source, twice, root, tmp_path / "other", 1),
    ):
        pass


def test_what_a_network_says_is_in_the_tables(tmp_path, root):
    programs, source = Programs(root), open_source(root)
    asked = Asked(network=open_network(Path("net"), source, (), programs), folds=Folds(2, "demo", 2))
    with open_audit(source, asked, root, tmp_path / "audit", 1) as job:
        job.write_parts(lambda count: None, lambda: False)
        evidence = gather(source, asked, job.out, programs)
        folded = predict_folds(source, asked.folds, job.out, programs)
        summary = job.finish([*evidence.probabilities, folded], job.compare(evidence.features))
    assert set(summary["label_noise"]) == {"train", "val"}
    rows = pq.read_table(tmp_path / "audit" / "rows.parquet").to_pylist()
    assert any("label" in (row["kind"], *row["also"]) and row["split"] == "train" for row in rows)
    assert np.isfinite([row["score"] for row in rows]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unseen", "val"], "--unseen needs --weights"),
        (["--config", "demo"], "need --folds K"),
        (["--minutes", "3"], "need --folds K"),
        (["--folds", "2", "--config", "demo", "--minutes", "3"], "--minutes needs --config auto"),
        (["--devices", "2"], "--devices needs --weights"),
        (["--folds", "1"], "2<=x<=20"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, options, message):
    result = CliRunner().invoke(main, ["audit", str(tmp_path), "--out", str(tmp_path / "audit"), *options])
    assert result.exit_code == 2
    assert message in result.output
