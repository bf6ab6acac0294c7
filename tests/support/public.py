"""The public names of fastnw, for tests of what is said about them."""

from __future__ import annotations

import inspect

import fastnw

# What other modules of fastnw ask the registry for.
INTERNAL = {"kernels.Facts", "kernels.built_in"}


def functions_and_classes():
    """(path below fastnw, object) of what `fastnw.__all__` and its modules define."""
    found = {}
    for name in fastnw.__all__:
        thing = getattr(fastnw, name)
        if not inspect.ismodule(thing):
            found[name] = thing
            continue
        for attribute in getattr(thing, "__all__", [each for each in vars(thing) if each[0] != "_"]):
            part = getattr(thing, attribute)
            ours = f"{getattr(part, '__module__', None)}.".startswith(f"{thing.__name__}.")  # not what it imports
            if ours and (inspect.isroutine(part) or inspect.isclass(part)) and part not in found.values():
                found[f"{name}.{attribute}"] = part
    return [(path, thing) for path, thing in found.items() if path not in INTERNAL]


def methods(cls):
    """(name, function) of the public methods that a class of fastnw's defines."""
    public = [(name, getattr(cls, name)) for name in vars(cls) if name[0] != "_"]
    return [(name, found) for name, found in public if inspect.isroutine(found)]
