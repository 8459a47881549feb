import os
import signal
import threading
from collections.abc import Callable

import pytest

from pgcore_train.interrupt import Interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run(*deeds: Callable[[], object]) -> None:
    """Do them in one update."""
    with Interrupt() as interrupt, interrupt.deferred():
        for deed in deeds:
            deed()


def test_outside_an_update_it_comes_at_once():
    with Interrupt(), pytest.raises(KeyboardInterrupt):
        press()


def test_inside_an_update_it_comes_at_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt):
        run(press, lambda: done.append("update"))
    assert done == ["update"]


def test_the_second_one_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt):
        run(press, lambda: done.append("first"), press, lambda: done.append("second"))
    assert done == ["first"]


def test_an_error_inside_an_update_goes_first():
    with pytest.raises(ZeroDivisionError):
        run(press, lambda: 1 / 0)


def test_an_update_without_one_goes_on():
    done = []
    run(lambda: done.append("one"))
    run(lambda: done.append("two"))
    assert done == ["one", "two"]


def test_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGINT)
        with Interrupt() as interrupt, interrupt.deferred():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
