"""The Quota block: a database's address, kept as a secret, that gives the scheduler and its memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from provider_model import target_of
from pydantic import ValidationError

from tta_dev_primitives.blocks.quotas.block import Quota
from tta_dev_primitives.blocks.quotas.quota import Slot
from tta_dev_primitives.config.models.targets import Limits


async def test_the_block_gives_a_working_scheduler_and_memory(tmp_path: Path) -> None:
    """Both use the database that the block names."""
    block = Quota(url=f"sqlite:///{tmp_path / 'ledger.db'}")
    target = target_of("m", "groq", Limits(rpm=1))
    assert isinstance(await block.get_quota().acquire(target, "k", 1), Slot)
    assert await block.get_availability().blocked([(target, "k")]) == {}
    assert (tmp_path / "ledger.db").exists()


def test_a_wrong_address_is_refused_without_repeating_it() -> None:
    """The password of a mistyped URL appears neither in the error nor in the block's text."""
    with pytest.raises(ValidationError, match="Ledger URL") as caught:
        Quota(url="mysql://me:hunter2@host/x")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Quota(url="postgresql://me:hunter2@host/x"))
