"""A directory of another plan: which keys count, what the line says, and that its ways out lead out."""

import shutil

import pytest

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, write_json
from convnext_imagenet.base.plan_changes import MISSING, Difference, differences

NEUTRAL = {"config.mix.late": 0, "config.late.key": "off"}


@pytest.mark.parametrize(
    ("stored", "wanted", "keys"),
    [
        ({"config": {"mix": {}}}, {"config": {"mix": {"late": 0}}}, []),
        ({"config": {}}, {"config": {"late": {"key": "off"}}}, []),
        ({"config": {"mix": {}}}, {"config": {"mix": {"late": 1}}}, ["config.mix.late"]),
        ({"config": {"mix": {"late": 1}}}, {"config": {"mix": {"late": 0}}}, ["config.mix.late"]),
        ({"config": {"mix": {"late": 0}}}, {"config": {"mix": {}}}, ["config.mix.late"]),
        ({"config": {}}, {"config": {"mix": {"other": 0}}}, ["config.mix.other"]),
        ({}, {"rules": {"draws": 1, "step": 1}}, ["rules.draws", "rules.step"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 1}, {"a": 1.0}, ["a"]),
    ],
)
def test_only_a_key_that_the_directory_lacks_may_take_its_neutral_value(stored, wanted, keys):
    assert [difference.key for difference in differences(stored, wanted, NEUTRAL)] == keys


@pytest.mark.parametrize(
    ("stored", "wanted", "keys"),
    [
        ({"optimizer": {"steps": 8, "beta": 1}}, {"optimizer": {"beta": 1}}, []),
        ({"optimizer": {"steps": 8, "beta": 1}}, {"optimizer": {"beta": 2}}, ["config.optimizer.beta"]),
        ({"optimizer": {"other": 8}}, {"optimizer": {}}, ["config.optimizer.other"]),
        ({"steps": 8}, {}, ["config.steps"]),
    ],
)
def test_a_key_that_left_the_plan_may_have_any_value_in_the_directory(stored, wanted, keys):
    found = differences({"config": stored}, {"config": wanted}, outside={"config.optimizer.steps"})
    assert [difference.key for difference in found] == keys


def test_a_plan_with_a_key_that_left_plans_keeps_its_id_and_its_bytes(tmp_path):
    old = protocol.begin(tmp_path, "run", {"config": {"mix": {"prob": 1}, "optimizer": {"steps": 8}}})
    before = (tmp_path / "plan.json").read_bytes()
    newer, outside = {"config": {"mix": {"prob": 1}, "optimizer": {}}}, {"config.optimizer.steps"}
    assert protocol.begin(tmp_path, "run", newer, outside=outside) == old
    assert protocol.join(tmp_path, "run", newer, outside=outside) == old
    assert (tmp_path / "plan.json").read_bytes() == before
    with pytest.raises(ArtefactError, match=r"differs in: config\.optimizer\.steps\)"):
        protocol.begin(tmp_path, "run", newer)


def test_a_difference_holds_both_values():
    assert differences({"rules": {"step": 1}}, {"rules": {"step": 2, "new": 1}}) == [
        Difference("rules.new", MISSING, 1),
        Difference("rules.step", 1, 2),
    ]


def test_a_plan_that_lacks_a_neutral_key_keeps_its_id_and_its_bytes(tmp_path):
    old = protocol.begin(tmp_path, "run", {"config": {"mix": {"prob": 1}}})
    before = (tmp_path / "plan.json").read_bytes()
    newer = {"config": {"mix": {"prob": 1, "late": 0}, "late": {"key": "off"}}}
    assert protocol.begin(tmp_path, "run", newer, NEUTRAL) == old
    assert protocol.join(tmp_path, "run", newer, NEUTRAL) == old
    assert (tmp_path / "plan.json").read_bytes() == before
    with pytest.raises(ArtefactError, match=r"differs in: config\.late\.key, config\.mix\.late\)"):
        protocol.begin(tmp_path, "run", newer)


def test_the_line_names_rule_and_library_with_both_values_and_its_ways_out_lead_out(tmp_path):
    root, numbers = tmp_path / "out", {"source": {"bytes": 5}, "topk": 1}
    begun = {"rules": {"writing": 1}, "versions": {"numpy": "1.26.4"}, **numbers}
    changed = {"rules": {"writing": 2}, "versions": {"numpy": "2.1.0"}, **numbers, "topk": 2}
    old = protocol.begin(root, "records", begun)
    version = read_json(root / "plan.json")["begun_by"]
    with pytest.raises(ArtefactError) as refused:
        protocol.begin(root, "records", changed)
    assert str(refused.value) == (
        f"{root}: belongs to another run (differs in: rules.writing, topk, versions.numpy): "
        f"rules.writing is 1 in the directory, now 2; topk is 1 in the directory, now 2; "
        f'versions.numpy is "1.26.4" in the directory, now "2.1.0"; '
        f"choose another directory, or delete this one, "
        f"or resume it with the versions that started it: convnext_imagenet {version}, numpy 1.26.4"
    )
    assert protocol.begin(root, "records", begun) == old, "resumed with the versions that started it"
    new = protocol.begin(tmp_path / "another", "records", changed)
    shutil.rmtree(root)
    assert protocol.begin(root, "records", changed) == new != old


def test_a_plan_of_a_program_without_rules_is_refused_by_each_rule_and_names_that_program(tmp_path):
    protocol.begin(tmp_path, "records", {"seed": 0})
    stored = read_json(tmp_path / "plan.json")
    del stored["begun_by"]
    write_json(tmp_path / "plan.json", stored)
    words = (
        r"rules\.shard_order, rules\.writing\): .*rules\.writing is missing in the directory, now 1; "
        r".*convnext_imagenet 0\.1\.0$"
    )
    with pytest.raises(ArtefactError, match=words):
        protocol.begin(tmp_path, "records", {"seed": 0, "rules": {"writing": 1, "shard_order": 1}})


def test_long_values_are_cut_and_a_rule_is_shown_before_them(tmp_path):
    protocol.begin(tmp_path, "records", {"a": "x" * 64, "b": 1, "c": 1, "d": 1, "rules": {"writing": 1}})
    with pytest.raises(ArtefactError) as refused:
        protocol.begin(tmp_path, "records", {"a": "y" * 64, "b": 2, "c": 2, "d": 2, "rules": {"writing": 2}})
    assert '(differs in: a, b, c, d, rules.writing): rules.writing is 1 in the directory, now 2; a is "xxx' in str(
        refused.value
    )
    assert "x" * 40 not in str(refused.value)
    assert "d is" not in str(refused.value)


def test_a_plan_that_was_changed_by_hand_is_not_believed(tmp_path):
    protocol.begin(tmp_path, "records", {"seed": 0})
    stored = read_json(tmp_path / "plan.json")
    write_json(tmp_path / "plan.json", {**stored, "plan": {"seed": 1}})
    with pytest.raises(ArtefactError, match="changed since it was written"):
        protocol.begin(tmp_path, "records", {"seed": 1})


def test_another_protocol_is_another_run(tmp_path, monkeypatch):
    protocol.begin(tmp_path, "records", {"seed": 0})
    monkeypatch.setattr(protocol, "PROTOCOL_VERSION", 2)
    with pytest.raises(
        ArtefactError, match=r"differs in: protocol version\): protocol version is 1 in the directory, now 2"
    ):
        protocol.begin(tmp_path, "records", {"seed": 0})
