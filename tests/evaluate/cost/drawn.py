"""Outputs of each kind, drawn to look like those of trained networks, with the noise that INT8 adds to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def add_noise(array: Array, snr_db: float, seed: int = 9) -> Array:
    """The array with noise of that SNR over its spread, as rounding to INT8 adds it to the last layer's input."""
    spread = np.sqrt(np.square(array - array.mean(axis=0)).mean())
    noise = np.random.default_rng(seed).normal(0, spread * 10 ** (-snr_db / 20), array.shape)
    return (array + noise).astype(np.float32)


def apply_sigmoid(array: Array) -> Array:
    return (1 / (1 + np.exp(-np.asarray(array, np.float64)))).astype(np.float32)


def apply_softmax(array: Array, axis: int) -> Array:
    weights = np.exp(array - array.max(axis=axis, keepdims=True), dtype=np.float64)
    return (weights / weights.sum(axis=axis, keepdims=True)).astype(np.float32)


def draw_class_logits(samples: int = 32, classes: int = 100, seed: int = 0) -> Array:
    """N×C logits of a classifier: one class stands out by a margin of a few standard deviations."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (samples, classes))
    logits[np.arange(samples), rng.integers(0, classes, samples)] += rng.uniform(2, 7, samples)
    return logits.astype(np.float32)


def draw_mask_logits(samples: int = 8, size: int = 64, seed: int = 0) -> Array:
    """N×1×H×W logits of text lines: bright rectangles on a dark background, with soft edges."""
    rng = np.random.default_rng(seed)
    logits = np.full((samples, 1, size, size), -5.0)
    for image in logits[:, 0]:
        for _ in range(4):
            top, left = rng.integers(0, size - 12), rng.integers(0, size - 24)
            image[top : top + rng.integers(8, 12), left : left + rng.integers(12, 24)] = 5.0
    return smooth_images(logits).astype(np.float32)


def draw_segmentation_logits(samples: int = 4, classes: int = 6, size: int = 64, seed: int = 0) -> Array:
    """N×C×H×W logits: patches of classes on background 0, each image with some of them."""
    rng = np.random.default_rng(seed)
    logits = np.full((samples, classes, size, size), -2.0)
    logits[:, 0] = 2.0
    for image in logits:
        for _ in range(3):
            top, left = rng.integers(0, size // 2, 2)
            label = rng.integers(1, classes)
            image[:, top : top + size // 2, left : left + size // 2] = -3.0
            image[label, top : top + size // 2, left : left + size // 2] = 4.0
    return smooth_images(logits).astype(np.float32)


def smooth_images(images: Array) -> Array:
    """Average …×H×W over 3×3 pixels."""
    for axis in (-1, -2):
        images = (np.roll(images, 1, axis) + images + np.roll(images, -1, axis)) / 3
    return images


def draw_detections(samples: int = 8, classes: int = 5, grid: int = 20, seed: int = 0, noise: float = 0.0) -> Array:
    """N×(4+C)×A as YOLOv8 gives them, centers and sizes in pixels of a 320×320 image, on a grid of A = grid² anchors.

    Each image has 3 objects, which the anchors near them detect. `noise` is that of INT8, before the sigmoid: 1 is a
    change of a logit by 1 and of a box's edges by a tenth of its size.
    """
    rng = np.random.default_rng(seed)
    rounding = np.random.default_rng(99)
    step = 320 / grid
    centers = (np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), -1).reshape(-1, 2) + 0.5) * step  # A×2
    outputs = []
    for _ in range(samples):
        logits = rng.normal(-8, 1, (len(centers), classes))
        xywh = np.concatenate([centers, rng.uniform(20, 60, (len(centers), 2))], 1)
        for _ in range(3):
            place, size = rng.uniform(40, 280, 2), rng.uniform(40, 100, 2)
            near = np.abs(centers - place).max(axis=1) < 1.5 * step
            logits[near, rng.integers(classes)] = rng.uniform(1, 3)
            xywh[near] = np.concatenate([place, size]) + rng.normal(0, 1, (near.sum(), 4))
        logits += rounding.normal(0, noise, logits.shape)
        xywh += 0.1 * rounding.normal(0, noise, xywh.shape) * np.tile(xywh[:, 2:], 2)
        outputs.append(np.concatenate([xywh, apply_sigmoid(logits)], 1).T)  # (4+C)×A
    return np.stack(outputs).astype(np.float32)


def draw_text_logits(samples: int = 16, steps: int = 40, tokens: int = 60, seed: int = 0) -> Array:
    """N×T×V logits of a CTC recognizer: blanks (token 0) with a character at every third or fourth step."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (samples, steps, tokens))
    logits[..., 0] += 9
    for sample in logits:
        for step in range(rng.integers(1, 4), steps, rng.integers(3, 5)):
            sample[step, 0] -= 9
            sample[step, rng.integers(1, tokens)] += 9
    return logits.astype(np.float32)


def draw_embeddings(samples: int = 16, size: int = 64, seed: int = 0) -> Array:
    """N×C embeddings with a common part, as rectified features have."""
    rng = np.random.default_rng(seed)
    return np.maximum(0, rng.normal(0.3, 1, (samples, size))).astype(np.float32)
