"""A decision computes on one thread, and leaves the number of threads as it found it."""

from __future__ import annotations

import threading

from threadpoolctl import ThreadpoolController

from lrtune.search.blas_threads import one_thread

ENOUGH = 4


def blas() -> list[int]:
    controller = ThreadpoolController().select(user_api="blas")
    return [library.num_threads for library in controller.lib_controllers]


def test_one_thread_within_and_as_before_afterwards() -> None:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = blas()
        with one_thread():
            within = blas()
        assert set(before) == {2}
        assert set(within) == {1}
        assert blas() == before


def test_searches_in_several_threads_restore_what_was_before_all_of_them() -> None:
    gate = threading.Barrier(ENOUGH)

    def decide() -> None:
        gate.wait()
        for _ in range(50):
            with one_thread(), one_thread():
                pass

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        threads = [threading.Thread(target=decide) for _ in range(ENOUGH)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(blas()) == {2}
