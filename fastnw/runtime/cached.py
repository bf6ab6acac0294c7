"""`cached_property` without a lock, as it is from Python 3.12 on.

Before, all instances share one lock a property. A thread may hold it, for as long as it takes to build a tree, while
another one forks: in the child nobody ever gives it back. Two threads may now find out the same thing at once; either
result will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class cached_property(Generic[T]):
    """An attribute that is computed when it is first asked for."""

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
        # found there from now on; the first of several threads' results stays, so that all see one object
        return instance.__dict__.setdefault(self._name, self._compute(instance))
