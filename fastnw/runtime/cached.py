"""`cached_property` without a lock, like that of Python 3.12 and later.

In earlier versions all instances share one lock per property. A thread may hold the lock while it builds a tree, and
another thread may fork in the meantime: in the child process the lock is never released. Without the lock, two threads
may compute the same value at once; either result is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class cached_property(Generic[T]):
    """An attribute that is computed at its first use."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> cached_property[T] | T:
        if instance is None:
            return self
        # Later reads find the value in __dict__. If several threads compute it, all of them get the first result.
        return instance.__dict__.setdefault(self._name, self._compute(instance))
