from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gangrun.errors import InputError
from gangrun.record.naming import readings, run_id, sanitise, stamp, stamp_key, stamps

WHEN = time.mktime((2026, 1, 31, 15, 45, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("001_example", "001_example"),
        ("lr=0.1,seed 3", "lr-0.1-seed-3"),
        ("größe", "gr--e"),
        ("../../etc", "..-etc".lstrip(".-")),
        ("--flag", "flag"),
        (".hidden", "hidden"),
        ("a\nb'; rm -rf ~", "a-b---rm--rf--"),
        ("a*[1]", "a--1-"),
        ("\udcff", None),
        ("", None),
        ("...", None),
        ("日本", None),
    ],
)
def test_names_keep_to_the_allowed_characters(name: str, clean: str | None) -> None:
    if clean is None:
        with pytest.raises(InputError, match="leaves nothing"):
            sanitise(name)
    else:
        assert sanitise(name) == clean


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_id_is_safe_everywhere_or_refused(experiment: str, step: str) -> None:
    try:
        name = run_id(experiment, step, WHEN)
    except InputError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name)
    assert name.endswith("_260131_154500")


def test_a_long_id_is_refused_with_its_numbers() -> None:
    assert len(run_id("e" * 20, "s" * 29, WHEN)) == 64
    with pytest.raises(InputError) as caught:
        run_id("e" * 20, "s" * 31, WHEN)
    told = str(caught.value)
    assert "66 characters, 2 too many" in told
    assert "experiment 20, step 31, time stamp and joints 15" in told
    assert "shorten the name of the step (now 31 characters) by at least 2" in told


def test_later_stamps_of_a_second_are_numbered() -> None:
    each = stamps("exp", "step", WHEN)
    assert [next(each) for _ in range(3)] == ["260131_154500", "260131_154500-2", "260131_154500-3"]


def test_stamps_of_an_id_without_room_take_the_next_seconds() -> None:
    each = stamps("e" * 20, "s" * 27, WHEN)  # 62 characters: room for -2 … -9
    got = [next(each) for _ in range(11)]
    assert got[:3] == ["260131_154500", "260131_154500-2", "260131_154500-3"]
    assert got[8:] == ["260131_154500-9", stamp(WHEN + 9), stamp(WHEN + 10)]
    assert all(len(run_id("e" * 20, "s" * 27, text)) <= 64 for text in got)


def test_stamps_sort_by_time_then_number() -> None:
    texts = ["260131_154500-10", "260131_154500", "251231_235959", "260131_154500-2", "260131_154501"]
    assert sorted(texts, key=stamp_key) == [
        "251231_235959",
        "260131_154500",
        "260131_154500-2",
        "260131_154500-10",
        "260131_154501",
    ]


@pytest.mark.parametrize(
    "text", ["latest", "260131", ".260131_154500.new", "260131_154500-", "260131_154500-02", "x260131_154500"]
)
def test_other_names_are_no_stamps(text: str) -> None:
    assert stamp_key(text) is None


def test_names_that_join_to_the_same_id_are_known() -> None:
    assert set(readings("a_b", "c_d")) == {("a", "b_c_d"), ("a_b_c", "d")}
    assert list(readings("a", "b")) == []
