"""Reading what a pool's driver writes, while it writes."""

from __future__ import annotations

import time
from pathlib import Path

from gangrun.node.pool.journal import Journal
from gangrun.record import pools
from gangrun.record.rundir import RunDir


def test_a_journal_that_is_being_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert pools.journal(run).items == {}
    assert pools.status(run) == {}
    (tmp_path / "pool").mkdir()
    path = tmp_path / "pool" / "journal.jsonl"
    journal = Journal(str(path))
    journal.write("Started", item=0, **{"try": 1}, node="n0", gpus=["3"], cpus=2)
    journal.flush()
    with path.open("ab") as file:
        file.write(b'{"t":5.0,"type":"Ended","item":0,"try":1,')
        file.flush()
        assert pools.journal(run).items[0].state == "running"
        file.write(b'"code":0,"seconds":4.0}\n')
    (span,) = pools.journal(run).items[0].spans
    assert (span.node, span.gpus, span.code, span.seconds, span.ended) == ("n0", ["3"], 0, 4.0, 5.0)


def test_ten_thousand_items_are_folded_in_no_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "pool").mkdir()
    journal = Journal(str(tmp_path / "pool" / "journal.jsonl"))
    for index in range(10_000):
        journal.write("Started", item=index, **{"try": 1}, node="n0", gpus=["3"], cpus=2)
        journal.write("Ended", item=index, **{"try": 1}, code=index % 2, seconds=4.0)
    journal.flush(now=True)
    began = time.process_time()
    items = pools.journal(run).items
    assert time.process_time() - began < 1
    assert sum(history.state == "done" for history in items.values()) == 5000
