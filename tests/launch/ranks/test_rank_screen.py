"""What a rank prints on both of its streams, in any order of arrival: no line behind a bar, and no blank lines."""

import io

import pytest

from convnext_imagenet.launch.ranks.processes import RankScreen

BAR, MORE, END, LINES = "\rtrain: 49%", "\rtrain: 50%", "\n", "epoch: 1\nepoch time\n"


@pytest.mark.parametrize(
    "arrivals",
    [
        [("err", BAR), ("err", END), ("out", LINES), ("err", MORE)],
        [("err", BAR), ("out", LINES), ("err", END), ("err", MORE)],
        [("err", BAR), ("out", LINES), ("err", END + MORE)],
        [("err", BAR + END), ("out", LINES), ("err", MORE)],
    ],
    ids=["as-printed", "late-end", "late-end-with-the-next-bar", "together"],
)
def test_lines_of_output_stand_on_their_own(arrivals: list[tuple[str, str]]) -> None:
    file = io.StringIO()
    screen = RankScreen(file, file)
    for stream, text in arrivals:
        (screen.show_output if stream == "out" else screen.show_error)(text)
    assert file.getvalue() == f"{BAR}\n{LINES}{MORE}"


def test_a_bar_that_arrives_before_the_lines_is_ended_too() -> None:
    file = io.StringIO()
    screen = RankScreen(file, file)
    screen.show_error(BAR + END + MORE)
    screen.show_output(LINES)
    screen.show_error(BAR)
    assert file.getvalue() == f"{BAR}\n{MORE}\n{LINES}{BAR}"


def test_a_closed_screen_is_no_error() -> None:
    closed = io.StringIO()
    closed.close()
    screen = RankScreen(closed, closed)
    screen.show_error(BAR)
    screen.show_output(LINES)
