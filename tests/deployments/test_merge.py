"""What people set on the server stays: the three-way merge of `tta deploy`, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies

from tta_dev_primitives.deployments.merge import Difference, digests, merge

_FIELDS = strategies.dictionaries(strategies.sampled_from("abcd"), strategies.integers(0, 2))


@pytest.mark.parametrize(
    ("deployed", "definition", "server", "wanted"),
    [
        ({"cron": "1"}, {"cron": "1"}, {"cron": "9"}, {"cron": "9"}),  # a person changed it
        ({"cron": "1"}, {"cron": "2"}, {"cron": "1"}, {"cron": "2"}),  # the definition changed it
        ({"cron": "1"}, {"cron": "2"}, {"cron": "9"}, {"cron": "9"}),  # both changed it
        ({"cron": "1"}, {"cron": "2"}, {"cron": "2"}, {"cron": "2"}),  # both, to the same
        ({"cron": "1"}, {"cron": "1"}, {}, {}),  # a person deleted it
        ({"cron": "1"}, {}, {"cron": "1"}, {}),  # the definition dropped it
        ({"cron": "1"}, {}, {"cron": "9"}, {"cron": "9"}),
        ({}, {}, {"extra": "9"}, {"extra": "9"}),  # a person added it
        ({}, {"new": "1"}, {}, {"new": "1"}),  # the definition added it
        ({}, {"new": "1"}, {"new": "9"}, {"new": "9"}),
        (None, {"cron": "1"}, {"cron": "9"}, {"cron": "9"}),  # nothing is known of the last deploy
        (None, {"cron": "1"}, {}, {"cron": "1"}),
    ],
)
def test_each_side_is_applied_where_only_it_changed(
    deployed: dict[str, Any] | None,
    definition: dict[str, Any],
    server: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    """The server's value comes first when both changed; every value that stays against the definition is reported."""
    base = None if deployed is None else digests(deployed)
    merged = merge(base, definition, server)
    assert merged.values == wanted
    against = {name for name in {*definition, *wanted} if definition.get(name) != wanted.get(name)}
    assert {one.field for one in merged.kept} == against


def test_an_option_comes_before_both_and_is_no_difference() -> None:
    """`--nightly-time` and its like change what a person set as well."""
    merged = merge(digests({"cron": "1"}), {"cron": "1"}, {"cron": "9", "tags": ["x"]}, given={"cron": "5"})
    assert merged.values == {"cron": "5", "tags": ["x"]}
    assert merged.kept == (Difference("tags", ["x"], None),)


@given(deployed=_FIELDS, definition=_FIELDS, server=_FIELDS)
def test_a_second_merge_changes_nothing_and_reset_is_the_definition(
    deployed: dict[str, int], definition: dict[str, int], server: dict[str, int]
) -> None:
    """Deploying again is safe to repeat; `--reset` gives the definition whatever stood there."""
    first = merge(digests(deployed), definition, server)
    assert merge(digests(definition), definition, first.values) == first
    assert merge(digests(deployed), definition, server, reset=True).values == definition
