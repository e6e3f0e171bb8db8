r"""The curve model: the loss over learning rate and training as three parametric terms and a Gaussian process.

With the metric normalised so that 0 is the best value seen and 1 that of the untrained model, it is

.. math:: y = a + b (1 + S/s_0)^{-p} + c\\, m(t)\\, 10^{q x} + d(x, t) + e

with `x` the log10 learning rate, `S` the learning rate summed over the run so far and `m` the schedule's
multiplier now. The first two terms say that training progresses with the summed learning rate and the
third that a high learning rate adds noise which annealing removes again: the law of
Tissue, Wang and Wang, "Scaling Law with Learning Rate Annealing" (2024, arXiv:2408.11029, eq. 1), with the
annealed area replaced by the present multiplier. `d` is a Gaussian process for what the law gets wrong: a part that
stays, and a Brownian motion backwards in :math:`\\log_{10} t` from the end of training, so that the further from its
end a run is, the less is known of it, and the less is known of two learning rates' difference the further apart they
are. `e` is the noise of single evaluations.

Given :math:`(s_0, p, q)` this is Bayesian linear regression with correlated errors (Rasmussen and
Williams, "Gaussian Processes for Machine Learning", 2006, section 2.7), so a small grid over these
three, weighted by the evidence, gives the posterior in closed form. The constants are in
:mod:`lrtune.search.freeze_thaw.config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular

from lrtune.search.freeze_thaw.config import CONFIG

__all__ = ["CurveModel", "Points"]

Floats: TypeAlias = npt.NDArray[np.float64]

POWERS, RISES, KNEES = (np.array(values) for values in (CONFIG.decay_powers, CONFIG.noise_powers, CONFIG.knees))
MEAN, SD = np.array(CONFIG.coefficient_mean), np.array(CONFIG.coefficient_sd)
FALL_OF = np.tile(np.arange(len(POWERS) * len(KNEES)), len(RISES))  # of each hypothesis: which (p, s0) it has,
RISE_OF = np.repeat(np.arange(len(RISES)), len(POWERS) * len(KNEES))  # and which q
COLUMNS = np.stack([np.zeros_like(FALL_OF), 1 + FALL_OF, 2 + FALL_OF.max() + RISE_OF], axis=1)  # its columns, in _fit


@dataclass(frozen=True, slots=True)
class Points:
    """Points of learning curves, each array of shape (n,).

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


class CurveModel:
    """The posterior of the model, given points of the curves.

    Parameters
    ----------
    points
        Where the loss is known.
    y
        The loss there, shape (n,): 0 best, 1 untrained.
    gap
        How far each lies above the best one trained about as long, shape (n,); its noise grows with it.
    rough
        Standard deviation of each beside the noise that all have, shape (n,).
    alike
        Correlation between groups, shape (groups, groups).
    """

    def __init__(self, points: Points, y: Floats, *, gap: Floats, rough: Floats, alike: Floats) -> None:
        self._points, self._y, self._alike = points, y, alike
        self._knees = (points.x + np.log10(points.area))[np.argmin(y)] + KNEES
        self._x0 = float(points.x[np.argmin(y)])
        before = np.log10(points.t.max() / points.t)
        noise = (CONFIG.report_sd + CONFIG.misfit_share * gap + CONFIG.early_sd * before) ** 2 + rough**2
        covariance = self._kernel(points, points) + np.diag(noise)
        self._chol = np.linalg.cholesky(covariance)
        self._fit()

    def _kernel(self, one: Points, two: Points) -> Floats:
        alike = self._alike[one.group[:, None], two.group[None, :]]
        apart = one.x[:, None] - two.x[None, :]
        ahead_1, ahead_2 = -np.log10(one.t)[:, None], -np.log10(two.t)[None, :]
        stays = CONFIG.settings_sd**2 + CONFIG.misfit_sd**2 * np.exp(-0.5 * (apart / CONFIG.misfit_length) ** 2)
        drifts = CONFIG.drift_sd**2 * np.exp(-0.5 * (apart / CONFIG.drift_length) ** 2)
        found: Floats = alike * (stays + drifts * np.minimum(ahead_1, ahead_2))
        same = np.nonzero((one.run[:, None] == two.run[None, :]) & (one.run[:, None] >= 0))
        found[same] += CONFIG.run_sd**2 * np.exp(-np.abs((ahead_1 - ahead_2)[same]) / CONFIG.run_length)
        return found

    def _terms(self, points: Points) -> tuple[Floats, Floats]:
        """The falling term under each (p, s0) and the rising one under each q, shapes (44, n) and (2, n)."""
        u = points.x + np.log10(points.area)
        progress = np.log1p(10 ** np.clip(u[None, :] - self._knees[:, None], -8, 8))  # (knees, n)
        falls: Floats = np.exp(-POWERS[:, None, None] * progress[None]).reshape(-1, len(u))
        rel = np.clip(points.x - self._x0, -6, 1.0)
        rises: Floats = points.level * 10 ** (RISES[:, None] * rel)
        return falls, rises

    def _fit(self) -> None:
        n = len(self._y)
        self._falls, self._rises = self._terms(self._points)
        columns = np.vstack([np.ones((1, n)), self._falls, self._rises, self._y]).T  # what the hypotheses are made of
        solved = solve_triangular(self._chol, columns, lower=True)
        white, y = solved[:, :-1], solved[:, -1]
        precision = (white.T @ white)[COLUMNS[:, :, None], COLUMNS[:, None, :]] + np.diag(SD**-2)
        moment = (white.T @ y)[COLUMNS] + MEAN / SD**2
        mean = np.linalg.solve(precision, moment[..., None])[..., 0]
        quad = y @ y + np.sum((MEAN / SD) ** 2) - np.einsum("kc,kc->k", mean, moment)
        shape = CONFIG.scale_shape + n / 2  # of the inverse gamma over the common scale of all misfit
        rate = CONFIG.scale_shape + np.maximum(quad, 1e-12) / 2
        _, logdet = np.linalg.slogdet(precision)
        score = -0.5 * logdet - shape * np.log(rate)
        score = np.where(
            (mean[:, 1] < 0) | (mean[:, 2] < CONFIG.negative_coefficient), score - CONFIG.negative_penalty, score
        )
        weight = np.exp(score - score.max())
        self._weight = weight / weight.sum()
        self._mean, self._spread = mean, np.linalg.cholesky(np.linalg.inv(precision))
        self._scale = np.maximum(CONFIG.least_scale, np.sqrt(rate / (shape - 1)))

    def draws(self, query: Points, count: int, rng: np.random.Generator) -> Floats:
        """Posterior draws of the noise-free loss at other points, shape (count, m)."""
        picks = np.sort(rng.choice(len(self._weight), size=count, p=self._weight))
        cross = self._kernel(self._points, query)  # (n, m)
        gain = cho_solve((self._chol, True), cross)
        rest = self._kernel(query, query) - cross.T @ gain
        root = np.linalg.cholesky(rest + 1e-8 * np.eye(len(query.x)))
        scale = self._scale[picks][:, None]
        z = rng.standard_normal((count, 3))
        beta = self._mean[picks] + scale * np.einsum("kcd,kd->kc", self._spread[picks], z)
        beta[:, 1:] = np.maximum(beta[:, 1:], 0)
        residual = self._y[None] - _law(beta, picks, self._falls, self._rises)
        found: Floats = _law(beta, picks, *self._terms(query)) + residual @ gain
        found += scale * (rng.standard_normal((count, len(query.x))) @ root.T)
        return found


def _law(beta: Floats, picks: npt.NDArray[np.int64], falls: Floats, rises: Floats) -> Floats:
    """The law under drawn coefficients (shape (count, 3)) of drawn hypotheses, shape (count, n)."""
    return beta[:, [0]] + beta[:, [1]] * falls[FALL_OF[picks]] + beta[:, [2]] * rises[RISE_OF[picks]]
