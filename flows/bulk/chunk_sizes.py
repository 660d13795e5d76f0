"""How many tasks of a job are under way together. Pure.

While evidence is to earn its trust, a job begins with small chunks, one after the other: what one chunk taught must
reach the next one.
"""

from __future__ import annotations

from collections.abc import Iterator

_FIRST = 4
"""Tasks of the first chunk while nothing is trusted; each next one is half of all before it."""
LEARNT = 120
"""Tasks after which chunks are whole and overlap: by then a stratum that deserves trust has it."""


def whole_chunk(concurrency: int) -> int:
    """Tasks of a whole chunk: they are planned together, and those answered at about the same time validated."""
    return max(min(100, 2 * concurrency), concurrency)


def next_size(taken: int, whole: int) -> int:
    """Tasks of the next chunk while a job learns, after so many were taken."""
    return min(whole, max(_FIRST, taken // 2))


def chunk_sizes(total: int, whole: int, *, learns: bool) -> Iterator[int]:
    """The sizes of all chunks of a job."""
    taken = 0
    while taken < total:
        size = next_size(taken, whole) if learns and taken < LEARNT else whole
        yield min(size, total - taken)
        taken += size
