"""A child process that carries a stream: what it says of its end."""

from __future__ import annotations

import sys

import pytest

from streamer.child import Child


@pytest.mark.parametrize("lines", [0, 1, 100])
def test_its_first_words_are_its_complaint(lines: int) -> None:
    program = f"import sys; print(*(f'line {{n}}' for n in range({lines})), sep='\\n', file=sys.stderr)"
    child = Child([sys.executable, "-I", "-S", "-c", program], writes=True)
    assert child.complaint() == ("line 0" if lines else "")
    child.close()
