"""Which item starts next, and where: what the driver goes by, and what a plan of a sweep is simulated with."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator

from .items import Item
from .places import Place, Places


class Waiting:
    """Items that wait, longest first; those of which nothing is known in the order of the file."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._queues: dict[tuple[float, float], list[Item]] = {}
        """By what they need, the next one last."""
        for item in items:
            self._queues.setdefault(item.needs, []).append(item)
        for queue in self._queues.values():
            queue.sort(key=_urgency, reverse=True)

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def put(self, item: Item) -> None:
        """Takes one in, at its place."""
        queue = self._queues.setdefault(item.needs, [])
        key = _urgency(item)
        at = len(queue)
        while at and _urgency(queue[at - 1]) < key:
            at -= 1
        queue.insert(at, item)

    def assign(
        self,
        places: Places,
        room: Callable[[], bool],
        most_nodes: int | None,
        out: Callable[[Item], bool],
        never: Callable[[Item], bool],
    ) -> Iterator[tuple[Item, Place]]:
        """Takes out what can start now, with the room that it takes, as long as there is `room` for one more.

        `out` says of an item that it is not to be started at all any more, `never` that it fits nowhere.
        """
        closed: set[str] = set()
        pack = len(self._queues) > 1
        for queue in sorted((queue for queue in self._queues.values() if queue), key=lambda queue: _urgency(queue[-1])):
            while queue and room():
                item = queue[-1]
                if out(item):
                    queue.pop()
                    continue
                gpus, cpus = item.needs
                place = places.choose(gpus, cpus, item.avoid, closed, pack=pack, most_nodes=most_nodes)
                if place is None:
                    if not never(item):
                        # A node is kept free for it, or narrower items would go on taking what becomes free.
                        widest = places.widest()
                        closed |= {widest} if widest else set()
                        break
                    queue.pop()
                    continue
                queue.pop()
                yield item, place


def _urgency(item: Item) -> tuple[float, int]:
    """The smaller, the sooner it starts: of two the longer, of equals the first."""
    return (-(item.predicted or 0.0), item.index)
