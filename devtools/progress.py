"""Lines on the screen: what is being done, for how long, and how it ended."""

import contextlib
import sys
import threading
import time

LINE_SECONDS = 10  # without a terminal: one line each so many seconds of silence
_lock = threading.Lock()


def say(text=""):
    """Print one line at once, also when the output is a pipe."""
    with _lock:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def note(text):
    """Print a remark that does not stop the work."""
    say(f"  note: {text}")


def warn(text):
    """Print a sentence about something that went wrong, on stderr."""
    with _lock:
        sys.stdout.flush()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def step(title):
    """Show `title` while the block runs, with the seconds it takes.

    On a terminal the seconds count up in place; elsewhere a line appears about each ten seconds.
    """
    started = time.monotonic()
    finished = threading.Event()
    terminal = sys.stdout.isatty()
    if not terminal:
        say(f"{title} ...")
    ticker = threading.Thread(target=_tick, args=(title, started, finished, terminal), daemon=True)
    ticker.start()
    ended = "failed after"
    try:
        yield
        ended = "done in"
    finally:
        finished.set()
        ticker.join()
        seconds = time.monotonic() - started
        if terminal:
            say(f"\r\033[K{title} ... {ended} {seconds:.0f} s")
        elif ended == "failed after" or seconds >= 1:
            say(f"  {ended} {seconds:.0f} s")


def _tick(title, started, finished, terminal):
    interval = 1 if terminal else LINE_SECONDS
    while True:
        if terminal:
            with _lock:
                sys.stdout.write(f"\r\033[K{title} ... {time.monotonic() - started:.0f} s")
                sys.stdout.flush()
        if finished.wait(interval):
            return
        if not terminal:
            say(f"  ... {time.monotonic() - started:.0f} s")
