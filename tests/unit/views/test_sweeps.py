"""What `gangrun results` shows of the items of a sweep."""

from __future__ import annotations

from gangrun.record.item_states import ItemState
from gangrun.record.state import State
from gangrun.views import sweeps

ITEMS = [
    ItemState(0, "lr=0.1", {"lr": 0.1}, State.COMPLETED, exit_code=0, started=10.0, ended=12.5, node="n1"),
    ItemState(1, "lr=0.2", {"lr": 0.2, "wide": True}, State.FAILED, exit_code=3, started=11.0, ended=12.0, node="n2"),
]
METRICS = {"lr=0.1": {"loss": 0.12345678, "lr": 0.05}}


def test_results_are_a_table_for_people_and_for_spreadsheets() -> None:
    rows = sweeps.results(ITEMS, lambda name: METRICS.get(name, {}))
    assert sweeps.as_lines(rows) == [
        "ITEM    LR   WIDE  STATE      EXIT_CODE  SECONDS  LOSS      METRICS.LR",
        "lr=0.1  0.1        COMPLETED  0          2.5      0.123457  0.05",
        "lr=0.2  0.2  true  FAILED     3          1",
    ]
    assert sweeps.as_csv(rows).splitlines() == [
        "item,lr,wide,state,exit_code,seconds,loss,metrics.lr",
        "lr=0.1,0.1,,COMPLETED,0,2.5,0.12345678,0.05",
        "lr=0.2,0.2,True,FAILED,3,1.0,,",
    ]
