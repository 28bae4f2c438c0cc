"""Windows of images against the formulas, against scipy, and planned in a time loop on every backend."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from test_scan_planned import Sample, compare

from minigrad import exp, scan, stop_gradient, tanh, value_and_grad
from minigrad.checking import check_vjp
from minigrad.graph import row_size
from minigrad.scan import available_backends, use_backend
from minigrad.scan.planned import watched
from rnn_plugins.tasks.windows import gaussians, spread, triangles, window

RNG = np.random.default_rng(0)
IMAGES = RNG.random((4, 11, 8))
CENTRES = np.array([[5.0, 3.5], [2.25, 6.75], [0.0, -0.6], [12.2, 3.0]])
"""Row and column for each image; the last two windows end outside."""


def seen(images: Any, size: int, scale: float) -> Any:
    rows = triangles(CENTRES[:, 0], size, images.shape[1], scale)
    return window(images, rows, triangles(CENTRES[:, 1], size, images.shape[2], scale))


@pytest.mark.parametrize("scale", [1, 0.4, 0.75])
def test_triangles_interpolate_as_scipy_does(scale):
    ndimage = pytest.importorskip("scipy.ndimage")
    offsets = (np.arange(5) - 2) * scale
    for image, centre, found in zip(IMAGES, CENTRES, seen(IMAGES, 5, scale), strict=True):
        places = np.meshgrid(centre[0] + offsets, centre[1] + offsets, indexing="ij")
        expected = ndimage.map_coordinates(image, places, order=1, mode="grid-constant")
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_window_on_whole_pixels_is_a_mean_over_blocks_and_zero_outside(scale):
    size = 3
    side = size * scale
    image = np.pad(RNG.random((9, 9)), side)
    for top, left in ((-side, 0), (0, 0), (4, 7), (9, 9)):
        middle = np.array([top, left]) + (side - 1) / 2
        rows, columns = (triangles(middle[axis : axis + 1], size, 9, scale) for axis in (0, 1))
        inner = image[None, side:-side, side:-side]
        block = image[top + side : top + 2 * side, left + side : left + 2 * side]
        expected = block.reshape(size, scale, size, scale).mean((1, 3))
        np.testing.assert_allclose(window(inner, rows, columns)[0], expected, atol=1e-15)


@pytest.mark.parametrize("scale", [1.5, 2, 4.2])
def test_a_stretch_is_the_integral_over_its_pixels(scale):
    """Pixels as squares of constant brightness; the integral by 100,000 points."""
    line, centre, size = RNG.random(12), 4.3, 4
    for point, found in zip(
        centre + (np.arange(size) - (size - 1) / 2) * scale,
        triangles(np.array([centre]), size, 12, scale)[0] @ line,
        strict=True,
    ):
        places = point - scale / 2 + scale * (np.arange(100_000) + 0.5) / 100_000
        nearest = np.floor(places + 0.5).astype(int)
        inside = (nearest >= 0) & (nearest < 12)
        expected = np.where(inside, line[np.clip(nearest, 0, 11)], 0).mean()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def filters(centre: float, spacing: float, variance: float, size: int, side: int) -> Any:
    """Equations of the paper, element by element; its i and a begin with 1, and so do coordinates."""
    out = np.empty((size, side))
    for i in range(1, size + 1):
        mu = (centre + 1) + (i - size / 2 - 0.5) * spacing
        for a in range(1, side + 1):
            out[i - 1, a - 1] = np.exp(-((a - mu) ** 2) / (2 * variance))
        out[i - 1] /= out[i - 1].sum()
    return out


@pytest.mark.parametrize("size", [1, 4, 5])
def test_gaussians_are_the_formula_of_the_paper(size):
    given = [(6.0, 1.0, 1.0), (2.5, 2.2, 0.3), (-1.0, 0.5, 4.0)]
    columns = (np.array(column)[:, None] for column in zip(*given, strict=True))
    found = gaussians(*columns, size, 13)
    np.testing.assert_allclose(found, [filters(*one, size, 13) for one in given], rtol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)


def test_a_bank_of_gaussians_on_a_rectangle_is_the_blurred_rectangle_of_scipy():
    """With filters on every pixel, far from the edges, reading is a Gaussian filter."""
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.zeros((1, 40, 30))
    image[0, 15:24, 12:17] = 1
    deviation = 1.7
    one, variance = np.ones((1, 1)), np.full((1, 1), deviation**2)
    rows, columns = (gaussians((side - 1) / 2 * one, one, variance, side - 20, side) for side in (40, 30))
    expected = ndimage.gaussian_filter(image[0], deviation, truncate=12)[10:-10, 10:-10]
    np.testing.assert_allclose(window(image, rows, columns)[0], expected, atol=1e-12)


def test_gaussians_outside_of_the_image_see_nothing_in_either_precision():
    for dtype in (np.float32, np.float64):
        one = np.ones((1, 1), dtype)
        found = gaussians(1e6 * one, one, one, 3, 9)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_spread_is_the_transpose_of_window(channels):
    """<window(image), patch> = <image, spread(patch)>; and each channel is an image of its own."""
    image, patch = RNG.random((4, 11, 8, *channels)), RNG.random((4, 5, 3, *channels))
    rows, columns = RNG.random((4, 5, 11)), RNG.random((4, 3, 8))
    found, laid = window(image, rows, columns), spread(patch, rows, columns)
    assert (found.shape, laid.shape) == (patch.shape, image.shape)
    np.testing.assert_allclose((found * patch).sum(), (image * laid).sum(), rtol=1e-12)
    if channels:
        for channel in range(*channels):
            np.testing.assert_allclose(found[..., channel], window(image[..., channel], rows, columns), rtol=1e-12)


@pytest.mark.parametrize("scale", [0.7, 1, 2.5])
def test_gradients_of_windows_are_those_of_finite_differences(scale):
    image = RNG.random((2, 7, 6))

    def look(image: Any, centres: Any) -> Any:
        rows, columns = (triangles(centres[:, axis], 3, image.shape[1 + axis], scale) for axis in (0, 1))
        return spread(window(image, rows, columns), rows, columns)

    check_vjp(look, [image, np.array([[2.17, 3.31], [4.73, 0.42]])], order=2)


def test_gradients_of_gaussians_are_those_of_finite_differences():
    column = [[2.3], [4.1]]
    given = [np.array(column), 1 + np.array(column) / 9, 0.5 + np.array(column) / 7]
    check_vjp(lambda *args: gaussians(*args, 4, 9), given, order=2)


def looking(params: Any, carry: Any, x: Any, context: Any) -> Any:
    """It reads an image, paints on a canvas, and moves by what it saw, without a gradient through the place."""
    canvas, h = carry
    h = tanh(h @ params["W"] + x)
    height, width = context.shape[1:3]
    rows = triangles(stop_gradient(h[:, 0]) * 3 + height / 2, 4, height, 2.0)
    columns = gaussians(h[:, 1:2] + width / 2, exp(h[:, 2:3]), exp(h[:, 3:4]), 5, width)
    read, error = window(context, rows, columns), window(context - tanh(canvas), rows, columns)
    canvas = canvas + spread(tanh(read) * error, rows, columns)
    h = tanh(read.reshape(x.shape[0], -1) @ params["U"]) + stop_gradient(h)
    return (canvas, h), (error, stop_gradient(h))


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_step_that_looks_and_paints_is_planned(channels, dtype, backend, caplog):
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    params = {"W": normal(6, 6), "U": normal(20 * channels[0] if channels else 20, 6) / 5}
    carry, image = (normal(3, 9, 7, *channels), normal(3, 6)), normal(3, 9, 7, *channels)
    with caplog.at_level(logging.WARNING, "minigrad"):
        compare(Sample(looking, params, carry, normal(4, 3, 6), context=image), backend, dtype)
    assert not caplog.records


def test_no_array_as_large_as_a_coloured_image_is_rearranged():
    """A copy with the channels apart has vectors of three numbers, and takes longer than the products."""
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((6, 6)), "U": rng.standard_normal((60, 6)) / 5}
    image, xs = rng.standard_normal((3, 20, 16, 3)), rng.standard_normal((4, 3, 6))
    with use_backend("numpy"), watched() as calls:
        value_and_grad(lambda p: (scan(looking, p, (image, xs[0]), xs, context=image)[0][0] ** 2).sum())(params)
    (call,) = calls
    bodies = [body for stage in call.program.stages for body in (stage.forward, stage.backward)]
    turned = [op.output for body in bodies for op in body.ops if op.name == "transpose" and op.output.ndim == 4]
    assert turned
    assert max(map(row_size, turned)) == 4 * 16 * 3  # of an image that is already a window in one direction
