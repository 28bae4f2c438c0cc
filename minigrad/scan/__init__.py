"""`scan`: apply a step function along a sequence, forwards and backwards.

The package itself is callable: ``minigrad.scan(step, params, carry, xs)``. Its modules are imported as usual.
"""

import sys
from types import ModuleType
from typing import Any

from minigrad.scan.lookup import Lookup
from minigrad.scan.planned import BACKENDS, available_backends, chosen_backend, scan, stepper, use_backend
from minigrad.scan.plans import release

__all__ = ["BACKENDS", "Lookup", "available_backends", "chosen_backend", "release", "scan", "stepper", "use_backend"]


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return scan(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
