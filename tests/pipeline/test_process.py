"""What the process that runs jobs does with memory."""

from __future__ import annotations

import gc
import weakref

import pytest

from pipeline.process import left_alone, release


class Node:
    """Refers to itself, as what only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _nothing_frozen():
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_the_collector_leaves_alone_what_was_there_before_and_takes_what_comes_after():
    before = Node()
    watched = weakref.ref(before)
    with left_alone():
        del before
        later = weakref.ref(Node())
        release()
        assert watched() is not None, "not looked at"
        assert later() is None
    release()
    assert watched() is None


def test_a_call_within_another_leaves_the_outer_one_its_objects():
    with left_alone():
        with left_alone():
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_a_call_that_fails_gives_them_back():
    with pytest.raises(ValueError, match="no job"), left_alone():
        raise ValueError("no job")
    assert gc.get_freeze_count() == 0
