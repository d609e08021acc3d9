"""Processes that tests fork, and kill."""

import threading

from tqdm.auto import tqdm as shown_tqdm
from tqdm.std import tqdm


def own_bars():
    """Give a forked process a lock of its own for its progress bars.

    tqdm's is shared by a process and all that it forks: one that is killed while it draws leaves it locked for the others.
    """
    lock = threading.RLock()
    for kind in (tqdm, shown_tqdm):
        kind.set_lock(lock)
