"""Long lists in messages."""

from tav_sdk.training.base.mismatches import listed


def test_a_short_list_is_whole():
    assert listed(["missing a", "unexpected b"]) == "\n  missing a\n  unexpected b\n"


def test_what_is_not_shown_is_counted():
    lines = listed([f"missing {index}" for index in range(12)]).splitlines()
    assert lines[1:] == [*(f"  missing {index}" for index in range(10)), "  and 2 more"]
