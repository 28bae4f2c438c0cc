"""Time: a step function carried along a sequence. What the step computes is none of its business."""

from minigrad.scan.lookup import Lookup
from minigrad.scan.planned import BACKENDS, available_backends, chosen_backend, scan, stepper, use_backend

__all__ = ["BACKENDS", "Lookup", "available_backends", "chosen_backend", "scan", "stepper", "use_backend"]
