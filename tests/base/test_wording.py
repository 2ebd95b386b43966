"""Numbers, times and commands in messages: what each looks like, and that a shell reads a command as it is meant."""

import shlex

import pytest

from convnext_imagenet.base.wording import as_word, duration, install_command, plural, share, to_type


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (119.4, "119 s"),
        (120, "2.0 minutes"),
        (599, "10.0 minutes"),
        (600, "10 minutes"),
        (7199, "120 minutes"),
        (7200, "2.0 hours"),
        (3.6e6 * 1.5, "1,500.0 hours"),
    ],
)
def test_a_duration_has_two_digits_at_least(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_counts_and_shares() -> None:
    assert [plural(count, "class") for count in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]
    assert [share(value) for value in (None, 0.123)] == ["-", "12.3%"]


def test_a_command_survives_the_shell() -> None:
    assert shlex.split(f"ls {as_word('a b/$c')}") == ["ls", "a b/$c"]
    assert shlex.split(install_command("convnext_imagenet[ray]"))[1:] == [
        "-m",
        "pip",
        "install",
        "convnext_imagenet[ray]",
    ]


@pytest.mark.parametrize(
    ("variables", "said"), [({}, "convnext-serve eval R"), ({"CONVNEXT_MAKE": "1"}, "make eval RUN=R")]
)
def test_who_works_with_make_is_told_its_targets(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONVNEXT_MAKE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert to_type("eval RUN=R", "convnext-serve eval R") == said
