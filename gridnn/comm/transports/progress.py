"""A thread that waits for the device and for MPI, so that the main thread goes on launching kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

Job = Callable[[], Any]


class ProgressThread:
    """A thread for the operations of one group of ranks, which does them one after the other; it first calls ``bind``.

    Every member asks for the operations of a group in the same order, so that the order in which the workers do them
    is the same on all members; and since a progress thread serves one group only, no two of them can wait for each
    other. What the main thread would do itself goes through the progress thread while that has something left to do.

    Once a job has failed, all later ones fail with the same error: the order would no longer be that of the others.
    """

    def __init__(self, bind: Callable[[], None]) -> None:
        self._bind, self._jobs = bind, SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: Future | None = None

    @property
    def idle(self) -> bool:
        """Whether all that it was given is done."""
        return self._last is None or self._last.done()

    def start(self, job: Job) -> Future:
        """Have ``job`` done by the thread, which is made when it is first needed."""
        if self._thread is None:
            # a daemon: a rank that fails while it waits for the others must be able to leave
            self._thread = threading.Thread(target=self._work, name="gridnn transport", daemon=True)
            self._thread.start()
            self._put(self._bind)
        return self._put(job)

    def run(self, job: Job) -> Future:
        """Do ``job`` in the calling thread, or in the progress thread's after what that has left to do."""
        if not self.idle:
            return self.start(job)
        before, self._last = self._last, Future()
        _do(job, before, self._last)
        return self._last

    def free(self) -> None:
        """End the thread after its last job."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _put(self, job: Job) -> Future:
        before, self._last = self._last, Future()
        self._jobs.put((job, before, self._last))
        return self._last

    def _work(self) -> None:
        while (one := self._jobs.get()) is not None:
            _do(*one)
            del one  # and with it the arrays that the job knows


def _do(job: Job, before: Future | None, ended: Future) -> None:
    """Do a job; it fails with the same error if the one ``before``, which has ended, has failed."""
    try:
        if before is not None and before.exception() is not None:
            raise before.exception()
        ended.set_result(job())
    except BaseException as error:  # whatever it is, the main thread must hear of it
        ended.set_exception(error)
