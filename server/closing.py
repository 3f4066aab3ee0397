"""How a server ends: requests in progress have a time to finish, then they get an error, then the process is
gone, whatever its clients, its model worker and its threads do.
"""

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CUT_SECONDS = 2
"""after the requests' time is up, for their errors to be sent"""
LAST_SECONDS = 5
"""after that, for the rest of the process to end by itself"""


def close_after_signals(closing: threading.Event, seconds: float) -> None:
    """`seconds` after the first SIGTERM or SIGINT, set `closing`; CUT_SECONDS and LAST_SECONDS later, end the
    process. The handlers that are there are called too. Does nothing outside the main thread, where a process
    has no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        known = signal.getsignal(number)

        def begin(number: int, frame: FrameType | None, known: object = known) -> None:
            for wait, act in ((seconds, closing.set), (seconds + CUT_SECONDS + LAST_SECONDS, _end)):
                timer = threading.Timer(wait, act)
                timer.daemon = True
                timer.start()
            if callable(known):
                known(number, frame)

        signal.signal(number, begin)


def _end() -> None:
    os._exit(1)
