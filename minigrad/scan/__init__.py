"""Time: a step function applied along a sequence, forwards and backwards.

The package is called as its function: ``minigrad.scan(step, params, carry, xs)``. Its name stands for both, and an
import finds its modules as in any other.
"""

import sys
from types import ModuleType
from typing import Any

from minigrad.scan.lookup import Lookup
from minigrad.scan.planned import BACKENDS, available_backends, chosen_backend, release, scan, stepper, use_backend

__all__ = ["BACKENDS", "Lookup", "available_backends", "chosen_backend", "release", "scan", "stepper", "use_backend"]


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return scan(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
