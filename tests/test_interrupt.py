"""Ctrl-C is neither lost nor handled at an unsafe point."""

from __future__ import annotations

import signal
import threading
import weakref

import pytest

from robotest import interrupt
from robotest.errors import InterruptedRunError


class Thing:
    pass


def press_within_a_callback() -> None:
    """Press Ctrl-C while a weak reference's callback runs, where the interpreter drops every exception."""
    thing = Thing()
    _watched = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_python_loses_it() -> None:
    press_within_a_callback()  # would raise KeyboardInterrupt; if it ever does, `deferred` is not needed any more


def test_it_is_raised_by_the_next_check() -> None:
    with interrupt.deferred():
        press_within_a_callback()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        interrupt.check()  # raised once only


def press_and_go_on() -> None:
    with interrupt.deferred():
        signal.raise_signal(signal.SIGINT)


def press_and_fail() -> None:
    with interrupt.deferred():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("mine")


def test_without_a_check_it_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt):
        press_and_go_on()


def test_an_error_is_not_hidden_by_it() -> None:
    with pytest.raises(ValueError, match="mine"):
        press_and_fail()
    with interrupt.deferred():
        interrupt.check()  # the one before is forgotten


def test_the_second_is_raised_at_once() -> None:
    with interrupt.deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()


def test_afterwards_it_is_python_s_again() -> None:
    with interrupt.deferred():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_caller_s_stays() -> None:
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        with interrupt.deferred():
            signal.raise_signal(signal.SIGINT)
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]


def test_threads_may_use_it() -> None:
    passed = []

    def run() -> None:
        with interrupt.deferred():
            passed.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert passed == [1]


def test_what_waits_in_another_thread_hears_of_it_too_and_the_main_thread_is_interrupted_all_the_same() -> None:
    heard: list[str] = []

    def wait() -> None:
        try:
            interrupt.check_anywhere()
        except InterruptedRunError as error:
            heard.append(str(error))

    def wait_elsewhere() -> None:
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()

    with interrupt.deferred():
        wait_elsewhere()
        assert heard == []
        signal.raise_signal(signal.SIGINT)
        wait_elsewhere()
        with pytest.raises(KeyboardInterrupt):
            interrupt.check_anywhere()
        wait_elsewhere()
    assert heard == ["interrupted"] * 2
    wait_elsewhere()
    with interrupt.deferred():
        wait_elsewhere()  # the one before is forgotten
    assert len(heard) == 2
