"""What native code prints while a program is solved, on the file descriptor itself."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

import pytest

from planner.console import native_output_dropped

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's stdout can be exchanged")


def puts(text: str) -> None:
    library = ctypes.CDLL(None)
    library.puts(text.encode())
    library.fflush(None)


def test_only_native_output_inside_is_dropped(capfd):
    puts("before")
    with native_output_dropped():
        puts("inside")
        os.write(1, b"python\n")
        with native_output_dropped():
            puts("nested")
        puts("still inside")
    puts("after")
    assert capfd.readouterr().out.split() == ["before", "python", "after"]


def test_two_threads_that_leave_in_any_order(capfd):
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with native_output_dropped():
            first_is_in.set()
            second_is_in.wait()

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait()
    with native_output_dropped():
        second_is_in.set()
        thread.join()
        puts("the other has left")
    puts("after")
    assert capfd.readouterr().out.split() == ["after"]


def test_an_error_gives_the_output_back(capfd):
    with pytest.raises(ZeroDivisionError), native_output_dropped():
        _ = 1 / 0
    puts("after")
    assert capfd.readouterr().out == "after\n"
