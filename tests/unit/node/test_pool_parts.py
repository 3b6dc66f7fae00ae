"""The parts of the pool that decide: what items will take, where they fit, what the journal says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gangrun.node.pool.items import Items
from gangrun.node.pool.journal import Journal, decode, fold
from gangrun.node.pool.places import Node, Places
from gangrun.node.pool.walltime import parse_left


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04\n", 93784.0),
        ("02:03:04", 7384.0),
        ("3:04", 184.0),
        ("0:00", 0.0),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_time_left(text: str, seconds: float | None) -> None:
    assert parse_left(text) == seconds


def items(path: Path, lines: list[dict[str, object]], ends: dict[int, float]) -> Items:
    path.write_text("".join(json.dumps({"index": n, "name": f"i{n}", **line}) + "\n" for n, line in enumerate(lines)))
    events: list[dict[str, object]] = []
    for index, seconds in ends.items():
        events.append({"t": 1.0, "type": "Started", "item": index, "try": 1, "node": "n", "gpus": [], "cpus": 1})
        events.append({"t": 2.0, "type": "Ended", "item": index, "try": 1, "code": 0, "seconds": seconds})
    return Items(str(path), fold(events))


def test_an_estimate_becomes_seconds_once_items_have_shown_their_proportion(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"estimate": 10 * n} for n in range(1, 6)]
    fresh = items(tmp_path / "a", lines, {})
    assert [item.predicted for item in fresh.all.values()] == [10, 20, 30, 40, 50]
    known = items(tmp_path / "b", lines, {0: 1.0, 1: 2.0, 2: 3.2})
    assert [known.all[n].predicted for n in (3, 4)] == pytest.approx([4.0, 5.0])


def test_without_estimates_items_are_predicted_from_those_that_have_ended(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"parameters": {"depth": d, "lr": lr}} for lr in (0.1, 0.2) for d in (1, 2, 4, 8)]
    known = items(tmp_path / "a", lines, {0: 1.0, 1: 2.0, 2: 4.0, 3: 8.0})
    predicted = [known.all[n].predicted or 0.0 for n in (4, 5, 6, 7)]
    assert predicted == pytest.approx([1.0, 2.0, 4.0, 8.0])
    assert items(tmp_path / "b", lines, {0: 1.0}).all[7].predicted is None


def places(*gpus: int) -> Places:
    found = Places()
    for order, count in enumerate(gpus):
        found.nodes[f"n{order}"] = Node(f"n{order}", [str(n) for n in range(count)], 8, order)
    return found


def test_fractions_fill_one_device_before_the_next() -> None:
    here = places(2)
    taken = [here.choose(0.4, 0, set(), set(), pack=True, most_nodes=None) for _ in range(5)]
    assert [place.gpus if place else None for place in taken] == [[0], [0], [1], [1], None]
    assert taken[0] is not None
    here.release(taken[0])
    assert here.choose(0.6, 0, set(), set(), pack=True, most_nodes=None).gpus == [0]  # type: ignore[union-attr]
    assert here.choose(1, 0, set(), set(), pack=True, most_nodes=None) is None


def test_a_node_where_it_failed_is_the_last_choice() -> None:
    here = places(1, 1)
    first = here.choose(1, 1, {"n0"}, set(), pack=False, most_nodes=None)
    second = here.choose(1, 1, {"n0"}, set(), pack=False, most_nodes=None)
    assert [place.node for place in (first, second) if place] == ["n1", "n0"]


def test_no_more_nodes_than_allowed() -> None:
    here = places(1, 2)
    taken = [here.choose(1, 1, set(), set(), pack=False, most_nodes=1) for _ in range(3)]
    assert [place.node if place else None for place in taken] == ["n1", "n1", None]


def test_nodes_beyond_a_limit_that_was_lowered_are_filled_no_more() -> None:
    here = places(2, 2)
    taken = [here.choose(1, 1, set(), set(), pack=False, most_nodes=None) for _ in range(4)]
    (one, *_) = [place for place in taken if place and place.node == "n1"]
    here.release(one)
    assert here.choose(1, 1, set(), set(), pack=False, most_nodes=1) is None
    (other, *_) = [place for place in taken if place and place.node == "n0"]
    here.release(other)
    found = here.choose(1, 1, set(), set(), pack=False, most_nodes=1)
    assert found is not None
    assert found.node == "n0"


def test_a_torn_line_and_garbage_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"t":1,"type":"Opened"}\nnonsense\n[1]\n{"t":2,"type":"Started","item":0}\n{"t":3,"type":"En')
    journal = Journal(str(path))
    assert journal.known.items == {} or not journal.known.items[0].spans
    journal.write("Closed", code=0, left=1)
    assert journal.flush(now=True)
    events = list(decode(path.read_bytes()))
    assert [event["type"] for event in events] == ["Opened", "Started", "Closed"]
    assert fold(events).closed == events[-1]
