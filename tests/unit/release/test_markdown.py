"""Names in Markdown that look like Markdown."""

from raymds.release.markdown import escaped, table


def test_a_name_is_shown_as_it_is() -> None:
    assert escaped("a|b `c` *d* _e_ [f](g) <h> & #1 ~i~ \\") == (
        r"a\|b \`c\` \*d\* \_e\_ \[f\](g) \<h\> &amp; \#1 \~i\~ " + "\\\\"
    )
    assert escaped(" two\nlines ") == "two lines"


def test_a_table_has_a_line_for_each_row() -> None:
    assert table(("a", "n"), [("x", "1"), ("y", "22")], numbers=[1]) == (
        "| a | n |\n| --- | ---: |\n| x | 1 |\n| y | 22 |"
    )
