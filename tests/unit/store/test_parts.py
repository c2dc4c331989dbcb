"""Reads of a file in parts."""

import io

from raymds.store.parts import in_parts

CONTENT = b"0123456789"


def test_a_file_in_parts_reads_as_any_file() -> None:
    asked: list[tuple[int, int]] = []

    def part(start: int, length: int) -> bytes:
        asked.append((start, length))
        return CONTENT[start : start + length]

    file, want = in_parts(len(CONTENT), part), io.BytesIO(CONTENT)
    for offset, whence, length in ((2, 0, 3), (1, 1, 2), (-3, 2, 9), (0, 2, 5), (20, 0, 1)):
        assert file.seek(offset, whence) == want.seek(offset, whence)
        assert file.read(length) == want.read(length)
        assert file.tell() == want.tell()
    assert asked == [(2, 3), (6, 2), (7, 3)]
    file.seek(4)
    assert file.read() == CONTENT[4:]
