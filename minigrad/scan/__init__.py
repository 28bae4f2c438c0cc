"""Time: a step function carried along a sequence. What the step computes is none of its business."""

from minigrad.scan.reference import scan

__all__ = ["scan"]
