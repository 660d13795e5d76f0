"""Several pieces of work at the same time, of which none is left behind when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def gather_all(works: Iterable[Awaitable[T]]) -> list[T]:
    """Run all of `works` to their ends, then raise the first error, if there was any.

    `asyncio.gather` raises at once and lets the others run on: calls would be paid for after their run has failed.
    Cancelled, it cancels them and waits until each has closed what it had open.
    """
    ended = await asyncio.gather(*works, return_exceptions=True)
    results: list[T] = []
    for one in ended:
        if isinstance(one, BaseException):
            raise one
        results.append(one)
    return results
