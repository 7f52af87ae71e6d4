"""A thread that waits for the device and for MPI, so that the main thread goes on launching kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Job = Callable[[], Any]


class Task:
    """A job, done after another one; it fails with the same error if that one has failed."""

    def __init__(self, job: Job, before: Task | None) -> None:
        self._job: Job | None = job
        self._before = before
        self._ended = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._ended.is_set()

    def run(self) -> None:
        """Do the job; what goes wrong is kept for `result`."""
        try:
            if self._before is not None and self._before._error is not None:
                raise self._before._error
            self._result = self._job()
        except BaseException as error:  # whatever it is, the main thread must hear of it
            self._error = error
        self._job = self._before = None
        self._ended.set()

    def result(self) -> Any:
        """What the job gave, when it is done; what it raised is raised again."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Worker:
    """A thread for the operations of one group of ranks, which does them one after the other; it first calls ``bind``.

    Every member asks for the operations of a group in the same order, so that the order in which the workers do them
    is the same on all members; and since a worker serves one group only, no two workers can wait for each other. What
    the main thread would do itself goes through the worker as well while that has something left to do.

    Once a job has failed, all later ones fail with the same error: the order would no longer be that of the others.
    """

    def __init__(self, bind: Callable[[], None]) -> None:
        self._bind, self._tasks = bind, SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: Task | None = None

    @property
    def idle(self) -> bool:
        """Whether all that it was given is done."""
        return self._last is None or self._last.done

    def start(self, job: Job) -> Task:
        """Have ``job`` done by the thread, which is made when it is first needed."""
        if self._thread is None:
            # a daemon: a rank that fails while it waits for the others must be able to leave
            self._thread = threading.Thread(target=self._work, name="gridnn transport", daemon=True)
            self._thread.start()
            self._put(self._bind)
        return self._put(job)

    def run(self, job: Job) -> Task:
        """Do ``job`` in the calling thread, or in the worker's after what that has left to do."""
        if not self.idle:
            return self.start(job)
        self._last = Task(job, self._last)
        self._last.run()
        return self._last

    def free(self) -> None:
        """End the thread after its last job."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None

    def _put(self, job: Job) -> Task:
        self._last = Task(job, self._last)
        self._tasks.put(self._last)
        return self._last

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
