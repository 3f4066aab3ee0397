"""A bounded queue that is fair between clients: each client's requests keep their order, and clients take
turns.
"""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """The queue is full, or this client's half of it is."""


class FairQueue(Generic[T]):
    """`bound` requests may wait. One client may have at most half of them, rounded up, so that no client can
    fill the queue for the others.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: T) -> None:
        """Raises QueueFull."""
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
            own = len(self._waiting.get(client, ()))
            if waiting >= self.bound or own >= (self.bound + 1) // 2:
                raise QueueFull
            self._waiting.setdefault(client, deque()).append(item)

    def peek(self) -> T | None:
        """The next item, which stays in the queue."""
        with self._lock:
            return next(iter(self._waiting.values()))[0] if self._waiting else None

    def take(self, item: T) -> bool:
        """Remove `item`; its client's next turn comes after the other clients'. False if it is not in the
        queue.
        """
        with self._lock:
            for client, own in self._waiting.items():
                if item in own:
                    own.remove(item)
                    if own:
                        self._waiting.move_to_end(client)
                    else:
                        del self._waiting[client]
                    return True
            return False
