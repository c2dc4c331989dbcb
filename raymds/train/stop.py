"""Signals: SIGTERM, which `ray job stop` sends, as a wish that a command can grant."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Terminated(BaseException):
    """SIGTERM ends the command where it is; like KeyboardInterrupt it passes all that handles exceptions."""


@contextlib.contextmanager
def kept(number: signal.Signals) -> Iterator[None]:
    """Put the handler of a signal back at the end: Ray sets its own where it starts and trains, and leaves it there."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before not in {None, signal.SIG_DFL} and threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


@contextlib.contextmanager
def on_sigterm(stop: Callable[[], object]) -> Iterator[None]:
    """SIGTERM calls `stop`, in the main thread, between two of its instructions."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
