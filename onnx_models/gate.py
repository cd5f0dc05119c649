"""The figures of the stabiliser's gate, which its ONNX graph and the code for the CPU share (see `streamer.gate`).

Variances and energies are those of 8-bit code values.
"""

from __future__ import annotations

CELL = 4
FLOOR = 0.12**2
"""Least variance of noise, in 8-bit codes squared: less is rounding."""
PER_FRAME = 0.02
"""Variance, in units of the noise's, by which anything is out of date after a frame; the least gain is 0.13."""
QUANTILE, TO_MEAN = 0.25, 1.2
"""The noise is that of the cells below this quantile, and their mean is so many times as large."""
SPATIAL_QUANTILE, SPATIAL_MAX = 0.15, 1.6
"""Noise is also seen within one picture: between pictures at most so many times that of its smoothest cells."""
RISE = 1.1
"""How many times larger the noise's variance may become in a frame; it may halve."""
MOVING, COARSE = 0.3, 2.5
"""A picture of whose change shifts explain more than MOVING, on average, moves; noise is white, and has no more than
COARSE times its share of energy in the means of cells. Else a picture is taken for less noisy, but not for more."""
STILL_FRAMES = 3
"""So many frames that repeat the last one are a stream without noise, not a camera's frames shown twice."""
MARGIN, EXPLAINED = 0.25, 8.0
"""Energy above 1 + MARGIN and explained energy above EXPLAINED (both in units of the noise's) are no noise's."""
QUIET_GAIN, POP_ENERGY = 0.3, 3.0
"""A cell of a smaller gain was quiet; more energy than that is a change."""
POP_QUIET, POP_CHANGED, POP_LIKE = 0.3, 0.5, 0.65
"""Least shares of quiet cells, of changed ones among them, and among these of those that no shift explains, and no
light."""
POP_SHIFT, POP_LIGHT = 0.3, 0.2
"""Largest share of a change that a shift explains, and that its mean makes up, in a pop."""
POP_LEFT = 1.5
"""So much more energy than is expected of a pop on its way in is the pop's."""
LIMIT = 2.5
"""How far history may pull, in standard deviations of the noise."""
SAMPLE = 2
"""Every so many cells across and down are asked for the noise."""
FEWEST_CELLS = 6
"""Of the cells that are asked; with less, the noise stays what it was."""
DARK, LIGHT = 17.0, 234.0
"""Cells outside show no noise, because it is clipped."""
WINDOW, WIDE = 3, 5
"""Sides of the two windows, in cells, over which the gate averages."""
RIDGE, RIDGE_NOISE = 0.02, 0.1
"""What is added to squared gradients, as shares of themselves and of the noise, so that flat places have no motion."""
SLOPE = (-0.5, 0.0, 0.5)
FINE = (1 / 6**0.5, -2 / 6**0.5, 1 / 6**0.5)
"""Along both axes it is blind to slopes and straight edges, and gives white noise its own variance: Immerkaer, "Fast
noise variance estimation", Computer Vision and Image Understanding 64-2, 1996."""
POP_QUANTILE = 0.75
"""Of the energies of a pop's cells: how far it may pull."""
FOLLOW_ENERGY, FOLLOW_BETTER = 1.5, 0.75
"""Motion is followed where standing still leaves more energy than that, in units of the noise's, and following
leaves at most this share."""
POP_NEWS = 0.35
"""A pop also says, in units of the noise, how much better the new picture may be: key frames often are."""
