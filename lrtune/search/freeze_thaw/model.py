r"""A landscape over the learning rate and training: three physical terms, and a Gaussian process for the rest.

What a run shows at a point of its training is modelled, with everything scaled so that 0 is the best
value seen and 1 the untrained one, as

.. math:: y = a + b (1 + S/s_0)^{-p} + c\\, m(t)\\, 10^{q x} + d(x, t) + e

with `x` the log10 learning rate, `S` the learning rate summed over the run so far and `m` the schedule's
multiplier now. The first two terms say that training progresses with the summed learning rate and the
third that a high learning rate leaves noise behind which annealing takes away again: the law of
Tissue, Wang and Wang, "Scaling Law with Learning Rate Annealing" (2024, arXiv:2408.11029, eq. 1), with the
annealed area replaced by the present multiplier. `d` is a Gaussian process, what the law gets wrong
and what one run happened to draw; `e` is the noise of single evaluations.

Given :math:`(s_0, p, q)` this is Bayesian linear regression with correlated errors (Rasmussen and
Williams, "Gaussian Processes for Machine Learning", 2006, section 2.7), so a small grid over these
three, weighted by the evidence, gives the posterior in closed form: no optimiser, no local optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular

__all__ = ["NOISE", "Landscape", "Points"]

Floats: TypeAlias = npt.NDArray[np.float64]

POWERS = (0.2, 0.4, 0.7, 1.2)  # p: exponents of learning curves seen in practice lie within
RISES = (1.0, 2.0)  # q: the noise of SGD rises with lr to lr squared
KNEES = np.arange(-4.0, 1.1, 0.5)  # log10 s0, relative to the summed learning rate of the best run
PRIOR_MEAN = np.array([-0.2, 1.0, 0.0])  # of a, b, c: there is something left to gain
PRIOR_SD = np.array([0.4, 0.5, 0.3])
SMOOTH, OWN, NOISE = 0.05, 0.006, 0.006  # standard deviations of the smooth misfit, of one run, of one evaluation
EARLY = 0.04  # what a look's grows by for each tenfold that the furthest one came further: early losses mislead
WIDTH_X, WIDTH_T = 0.5, 0.3  # in decades of learning rate and of training
NEGATIVE, UNLIKELY = -1e-3, 10.0  # terms of the wrong sign, and by how much they count for less
TOLERANCE = 0.15  # a point this much above the best of its time counts for its misfit relative to that
FALL_OF = np.tile(np.arange(len(POWERS) * len(KNEES)), len(RISES))  # of each hypothesis: which (p, s0) it has,
RISE_OF = np.repeat(np.arange(len(RISES)), len(POWERS) * len(KNEES))  # and which q
MADE_OF = np.stack([np.zeros_like(FALL_OF), 1 + FALL_OF, 2 + FALL_OF.max() + RISE_OF], axis=1)  # its columns, in _fit


@dataclass(frozen=True, slots=True)
class Points:
    """Places in the landscape, each array of shape (n,).

    Attributes
    ----------
    x
        log10 of the (batch-scaled) learning rate.
    t
        Fraction of the full training, in (0, 1].
    area
        Learning rate multiplier summed over the run so far, as a fraction of a full constant run.
    level
        The schedule's multiplier at `t`.
    group
        Index of the combination of the other settings.
    run
        Index of the run; negative for a run that has not started.
    """

    x: Floats
    t: Floats
    area: Floats
    level: Floats
    group: npt.NDArray[np.int64]
    run: npt.NDArray[np.int64]

    def first(self, n: int) -> Points:
        """The first `n` of them."""
        return Points(self.x[:n], self.t[:n], self.area[:n], self.level[:n], self.group[:n], self.run[:n])


class Landscape:
    """The posterior of the landscape, given what has been seen.

    Parameters
    ----------
    points
        Where it was seen.
    y
        What was seen there, shape (n,): 0 best, 1 untrained.
    gap
        How far each lies above the best of its time, shape (n,); the misfit allowed grows with it.
    rough
        Noise of each, beside what all have, as a standard deviation, shape (n,).
    alike
        Correlation between groups, shape (groups, groups).
    """

    def __init__(self, points: Points, y: Floats, *, gap: Floats, rough: Floats, alike: Floats) -> None:
        self._points, self._y, self._alike = points, y, alike
        self._knees = (points.x + np.log10(points.area))[np.argmin(y)] + KNEES
        self._x0 = float(points.x[np.argmin(y)])
        before = np.log10(points.t.max() / points.t)
        noise = (NOISE + TOLERANCE * gap + EARLY * before) ** 2 + rough**2
        covariance = self._kernel(points, points) + np.diag(noise)
        self._chol = np.linalg.cholesky(covariance)
        self._fit()

    def _kernel(self, one: Points, two: Points) -> Floats:
        alike = self._alike[one.group[:, None], two.group[None, :]]
        far_x = (one.x[:, None] - two.x[None, :]) / WIDTH_X
        far_t = (np.log10(one.t)[:, None] - np.log10(two.t)[None, :]) / WIDTH_T
        smooth: Floats = SMOOTH**2 * alike * np.exp(-0.5 * (far_x**2 + far_t**2))
        same = np.nonzero((one.run[:, None] == two.run[None, :]) & (one.run[:, None] >= 0))
        smooth[same] += OWN**2 * np.exp(-np.abs(far_t[same]))
        return smooth

    def _terms(self, points: Points) -> tuple[Floats, Floats]:
        """The falling term under each (p, s0) and the rising one under each q, shapes (44, n) and (2, n)."""
        u = points.x + np.log10(points.area)
        progress = np.log1p(10 ** np.clip(u[None, :] - self._knees[:, None], -8, 8))  # (knees, n)
        falls: Floats = np.exp(-np.array(POWERS)[:, None, None] * progress[None]).reshape(-1, len(u))
        rel = np.clip(points.x - self._x0, -6, 1.0)
        rises: Floats = points.level * 10 ** (np.array(RISES)[:, None] * rel)
        return falls, rises

    def _fit(self) -> None:
        n = len(self._y)
        self._falls, self._rises = self._terms(self._points)
        columns = np.vstack([np.ones((1, n)), self._falls, self._rises, self._y]).T  # what the hypotheses are made of
        solved = solve_triangular(self._chol, columns, lower=True)
        white, y = solved[:, :-1], solved[:, -1]
        precision = (white.T @ white)[MADE_OF[:, :, None], MADE_OF[:, None, :]] + np.diag(PRIOR_SD**-2)
        moment = (white.T @ y)[MADE_OF] + PRIOR_MEAN / PRIOR_SD**2
        mean = np.linalg.solve(precision, moment[..., None])[..., 0]
        quad = y @ y + np.sum((PRIOR_MEAN / PRIOR_SD) ** 2) - np.einsum("kc,kc->k", mean, moment)
        shape = 3.0 + n / 2  # of the inverse gamma over the common scale of all misfit
        rate = 3.0 + np.maximum(quad, 1e-12) / 2
        _, logdet = np.linalg.slogdet(precision)
        score = -0.5 * logdet - shape * np.log(rate)
        score = np.where((mean[:, 1] < 0) | (mean[:, 2] < NEGATIVE), score - UNLIKELY, score)
        weight = np.exp(score - score.max())
        self._weight = weight / weight.sum()
        self._mean, self._spread = mean, np.linalg.cholesky(np.linalg.inv(precision))
        self._scale = np.maximum(1.0, np.sqrt(rate / (shape - 1)))

    def draws(self, query: Points, count: int, rng: np.random.Generator, *, wanted: int | None = None) -> Floats:
        """Draws of the noise-free landscape at other places, shape (count, m).

        Of the first `wanted` places only, shape (count, wanted), where that is given; what is drawn there and
        the state in which it leaves `rng` are the same: Cholesky's root of a leading block is the leading block
        of the root.
        """
        places = len(query.x)
        query = query if wanted is None else query.first(wanted)
        picks = np.sort(rng.choice(len(self._weight), size=count, p=self._weight))
        cross = self._kernel(self._points, query)  # (n, m)
        gain = cho_solve((self._chol, True), cross)
        rest = self._kernel(query, query) - cross.T @ gain
        root = np.linalg.cholesky(rest + 1e-9 * np.eye(len(query.x)))
        scale = self._scale[picks][:, None]
        z = rng.standard_normal((count, 3))
        beta = self._mean[picks] + scale * np.einsum("kcd,kd->kc", self._spread[picks], z)
        beta[:, 1:] = np.maximum(beta[:, 1:], 0)
        residual = self._y[None] - _law(beta, picks, self._falls, self._rises)
        found: Floats = _law(beta, picks, *self._terms(query)) + residual @ gain
        found += scale * (rng.standard_normal((count, places))[:, : len(query.x)] @ root.T)
        return found


def _law(beta: Floats, picks: npt.NDArray[np.int64], falls: Floats, rises: Floats) -> Floats:
    """The law under drawn coefficients (shape (count, 3)) of drawn hypotheses, shape (count, n)."""
    return beta[:, [0]] + beta[:, [1]] * falls[FALL_OF[picks]] + beta[:, [2]] * rises[RISE_OF[picks]]
