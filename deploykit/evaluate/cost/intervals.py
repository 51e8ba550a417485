"""95 % intervals of shares, over independent samples.

Within a sample nothing is independent (the pixels of an image, the boxes of a scene), so that the sample is the unit
everywhere: 16 images with a million pixels are 16 observations.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Z: Final = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Wilson's score interval of a share that was seen in `count` samples (E. B. Wilson, Probable inference, JASA 22,
    1927, 209 to 212). It is not empty at 0 and 1, unlike share ± Z·√(share·(1 − share)/count).
    """
    center = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return min(max(0.0, center - half), share), max(min(1.0, center + half), share)


def share_interval(parts: Array, wholes: Array) -> tuple[float, float, float]:
    """Σ parts / Σ wholes and its interval, where each sample has 0 ≤ part ≤ whole; samples with a whole of 0 do not
    count, and at least one has more.

    The variance is that of a ratio estimated from clusters, as in survey sampling: samples agree in themselves.
    Wilson's interval is taken at the number of independent observations with that variance, reduced for the
    uncertainty of the variance (E. L. Korn and B. I. Graubard, Survey Methodology 24, 1998, 193 to 201). Where the
    samples show no variance (all 0, all 1, or only one), it is the number of samples.
    """
    counted = wholes > 0
    parts, wholes = parts[counted].astype(np.float64), wholes[counted].astype(np.float64)
    samples = len(wholes)
    share = min(1.0, float(parts.sum() / wholes.sum()))
    observations = float(samples)
    if samples > 1 and 0 < share < 1:
        residuals = parts - share * wholes
        variance = samples / (samples - 1) * float(np.square(residuals).sum()) / float(wholes.sum()) ** 2
        if variance > 0:
            observations = share * (1 - share) / variance * (Z / student_quantile(samples - 1)) ** 2
    return share, *wilson_interval(share, observations)


def student_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t distribution: exact for 1 and 2 degrees of freedom, else to 1 %
    (M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 26.7.5).
    """
    if degrees == 1:
        return math.tan(0.475 * math.pi)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    return (
        Z
        + (Z**3 + Z) / (4 * degrees)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * degrees**3)
    )
