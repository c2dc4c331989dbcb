"""What is shown of other people's text."""

from raymds.text import visible


def test_what_a_terminal_obeys_is_shown_and_everything_else_stays() -> None:
    assert visible("晴れ é [red] −1.5 %") == "晴れ é [red] −1.5 %"
    assert visible("\x1b[2J\n\r\t\x00\x9b\ud800\u202e") == r"\x1b[2J\n\r\t\x00\x9b\ud800\u202e"
