"""A crew of threads that all do the same to one item after the other, for work that waits for a network."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew(Generic[Item, Result]):
    """Threads that take items and give back each with its result, or with the exception that it ended in.

    Used by one thread, as a context manager: at the end of the block the crew is sent home, after what it has in hand.
    """

    def __init__(self, work: Callable[[Item], Result], size: int) -> None:
        self._work = work
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Item, Result | Exception]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._labour, daemon=True) for _ in range(size)]
        self.open = 0

    def __enter__(self) -> Self:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Let every thread finish what it has in hand."""
        self.cancel()
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join()

    def add(self, item: Item) -> None:
        """Give an item to whoever is free."""
        self.open += 1
        self._items.put(item)

    def results(self) -> Iterator[tuple[Item, Result | Exception]]:
        """All results that are there; waits for one if there is none yet. Only while items are open."""
        yield self._next()
        while not self._results.empty():
            yield self._next()

    def cancel(self) -> None:
        """Take back the items that nobody has begun."""
        while not self._items.empty():
            try:
                if self._items.get_nowait() is not None:
                    self.open -= 1
            except queue.Empty:
                return

    def rest(self) -> Iterator[tuple[Item, Result | Exception]]:
        """The results of everything still in hand, as they come."""
        while self.open:
            yield self._next()

    def _next(self) -> tuple[Item, Result | Exception]:
        result = self._results.get()
        self.open -= 1
        return result

    def _labour(self) -> None:
        while (item := self._items.get()) is not None:
            try:
                result: Result | Exception = self._work(item)
            except Exception as error:  # noqa: BLE001  the one who collects it decides
                result = error
            self._results.put((item, result))
