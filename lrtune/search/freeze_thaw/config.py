"""Every constant of freeze-thaw and of the answer, each with its unit and its source: :data:`CONFIG`.

Units: *decades* are differences of log10 of the (batch-scaled) learning rate; *loss* is the metric normalised so that
0 is the best value seen and 1 that of the untrained model (:meth:`.observations.Observations.scaled`); *trainings* are
fractions of one full training.

Sources: a paper, named; *definition*; or *replay*: set by replaying searches on recorded trainings and made-up
problems (``studies/replay/README.md``), together with all others, and not fitted one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["CONFIG", "BandRule", "FreezeThawConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandRule:
    """How the band of good learning rates is read off the model; pairs are left and right of the best; replay."""

    width: float
    """Standard deviation (decades) of the expected optimum while the band is read."""
    chance: tuple[float, float]
    """Posterior probability of being as good as the best from which a learning rate is in the band."""
    margin: tuple[float, float]
    """Decades that the band reaches beyond the last learning rate in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeThawConfig:
    """The constants of :class:`.FreezeThaw`, by the module that uses them."""

    # -- in several modules: when runs differ
    sigmas: float = 2.0
    """Standard deviations of a difference beyond which it is none by chance; definition (5 % level)."""
    tolerance: float = 0.01
    """Loss within which a run is as good as the best: what repeats differ by on many tasks; replay."""
    tied: float = 0.0005
    """Loss within which runs do not differ, and below which another training gains nothing; replay."""
    late: float = 0.25
    """Trainings from which a run's distance to the best at the same fraction is kept to its end; replay."""
    fewest: int = 3
    """Runs or reports from which a level or a noise can be estimated; definition (a second difference takes three)."""

    # -- observations.py: curves as the model sees them
    model_points: int = 4
    """Points of a curve that the model is given, at t, t/2, t/4, ...; replay."""
    smoothing: float = 1.4
    """Factor in epochs: a point is the mean of the reports from t / 1.4 to t; replay."""
    flat: float = 0.01
    """Relative change of the metric below which it has not changed; replay."""
    largest_value: float = 1e100
    """In the metric's unit: beyond it a value is cut off, so that squares stay finite; definition (float64)."""
    exploded_factor: float = 3.0
    """Times the highest first report of a slow run: more is no estimate of the untrained model; replay."""
    plateau_neighbour: float = 1.5
    """Decades from the first run that leaves a plateau to others that are trained on until they leave it; replay."""
    plateau_span: float = 0.9
    """Decades over which runs that learn are never equal, so that equal ones have not begun to learn; replay."""
    overfit_rise: float = 0.01
    """Loss, above its minimum, from which a curve has overfitted (beside twice its noise); replay."""
    schedule_grid: int = 128
    """Steps in which a schedule is integrated; definition (numerical accuracy)."""
    undecayed_noise: float = 0.2
    """Share of the noise of a high learning rate that annealing does not remove; replay."""

    # -- model.py: the curve model and its Gaussian process
    decay_powers: tuple[float, ...] = (0.2, 0.4, 0.7, 1.2)
    """Hypotheses for p: exponents of learning curves seen in practice lie within; replay."""
    noise_powers: tuple[float, ...] = (1.0, 2.0)
    """Hypotheses for q: the noise of SGD grows with lr to lr squared; definition."""
    knees: tuple[float, ...] = tuple(k / 2 for k in range(-8, 3))
    """Hypotheses for log10 s0 (decades), relative to the summed learning rate of the best point; definition."""
    coefficient_mean: tuple[float, float, float] = (-0.2, 1.0, 0.0)
    """Prior mean of a, b, c (loss): something is left to gain, and the fall begins at the untrained model; replay."""
    coefficient_sd: tuple[float, float, float] = (0.4, 0.5, 0.3)
    """Prior standard deviation of a, b, c (loss); replay."""
    smooth_sd: float = 0.05
    """Standard deviation (loss) of the misfit that similar runs share; replay."""
    run_sd: float = 0.006
    """Standard deviation (loss) of what one run draws by chance; replay."""
    report_sd: float = 0.006
    """Standard deviation (loss) of one evaluation; replay."""
    early_sd: float = 0.04
    """Standard deviation (loss) added for each factor of ten that the furthest point was trained longer; replay."""
    lr_length: float = 0.5
    """Length scale of the Gaussian process over the learning rate, decades; replay."""
    time_length: float = 0.3
    """Length scale over the training, decades of its fraction; replay."""
    negative_coefficient: float = -1e-3
    """A hypothesis with a c (loss) below this is implausible; definition (c is not negative)."""
    negative_penalty: float = 10.0
    """Log evidence that such a hypothesis, or one with negative b, loses; replay."""
    misfit_share: float = 0.15
    """Standard deviation added to a point, as a share of its distance to the best one trained as long; replay."""

    # -- beliefs.py: what the model is combined with
    draws: int = 256
    """Posterior draws of a decision; replay."""
    constant_shift: float = 0.1
    """Decades that the optimum moves left per factor of ten of training under a constant schedule, beside what the
    model says; replay (half of p / (p + q))."""
    decaying_shift: float = 0.4
    """The same under a schedule that decays to zero, until `decaying_settled`; measured on recorded tables."""
    decaying_settled: float = 0.16
    """Trainings after which the optimum no longer moves under a schedule that decays; measured on recorded tables."""
    optimum_sd: float = 0.2
    """Standard deviation (decades) of the optimum's place that complete runs leave; replay."""
    overfit_sd: float = 0.1
    """The same, added where the optimum is read off a run that overfitted; replay."""
    optimum_regret: float = 0.01
    """Loss expected at one standard deviation from the expected optimum; replay."""
    optimum_regret_cap: float = 3.0
    """Standard deviations beyond which that loss no longer grows: the expectation may be wrong; replay."""
    edge_sd: float = 0.15
    """Standard deviation (decades) by which the edge of divergence may still move left for a run not begun; replay."""
    diverged_loss: float = 1.0
    """Loss predicted for a run beyond the edge; definition (that of the untrained model)."""
    best_has_learned: float = 0.8
    """Loss of the best run below which it has learned, so that others can be compared with it; replay."""
    unlearned_share: float = 0.1
    """Share of what the best run has learned by then, below which another has not learned; replay."""
    prior_score_loss: float = 0.005
    """Loss by which one point of the prior score of other settings is better before they are trained; replay."""
    prior_score_of_earlier_best: float = 2.0
    """Points of the prior score for the settings of an earlier study's best; replay."""
    model_runs: int = 40
    """Runs that the model is fitted to, those trained furthest; definition (bounds the time of a decision)."""
    loss_cap: float = 1.3
    """Loss above which a point counts as this: a worse one says no more; replay."""
    most_combinations: int = 64
    """Combinations of the other settings that a search considers; definition (bounds the time of a decision)."""
    range_values: int = 3
    """Values of a range among the other settings: its ends and its middle; definition."""
    confirmed_margin: float = 0.02
    """Loss by which runs beside the best must be worse to confirm an earlier study's answer; replay."""

    # -- prior.py: an earlier study's answer
    prior_sd: float = 0.3
    """Least standard deviation (decades) of an earlier study's answer; replay."""
    prior_confirmed: float = 0.2
    """Decades from its answer within which a best complete run confirms it, as within its band; replay."""

    # -- budget.py: how far a run is trained at a time
    first_training: float = 0.01
    """Trainings of a run's first segment, where a trainer can evaluate so early; replay."""
    warmups: float = 1.5
    """Warmups that it lasts where every combination has one: until then high learning rates look too good; replay."""
    last_segment: float = 0.6
    """Trainings from which on a run is trained to its end at once; replay."""

    # -- initial_design.py: the first runs
    spacing: float = 1.0
    """Decades between the first runs: half of the width of a usual basin; replay."""
    jitter: float = 0.25
    """Largest random shift of the first runs, as a share of the spacing; definition (half of what keeps them apart)."""
    bisect_above: float = 0.75
    """Share of the spacing: a gap beside the best that is wider gets a run in its middle; replay."""
    plateau_patience: float = 0.2
    """Trainings for which runs that have not begun to learn are trained on; replay."""
    plateau_spacing: float = 0.4
    """Share of the spacing: runs on a plateau that are closer are not both trained on; replay."""

    # -- candidates.py: where runs may be trained on or started
    apart: float = 0.12
    """Decades between runs before one is complete; then twice that over the number of complete ones; replay."""
    closest: float = 0.02
    """Decades: closer runs differ by less than noise; replay."""
    grid: tuple[float, ...] = tuple(np.concatenate([np.arange(0, 0.8, 0.05), np.arange(0.8, 2.1, 0.1)]).tolist())
    """Decades to both sides of the best run at which one may be started; replay."""
    joint_grid: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
    """The same where other settings are searched too; replay."""
    untried_grid: tuple[float, ...] = (0.0, 0.25)
    """The same under settings that were never tried; replay."""
    untried_below_edge: float = 1 / 3
    """Decades below the edge of divergence at which such settings are tried at the highest; replay."""
    most_runs: int = 50
    """Complete and paused runs, each, that a decision compares; definition (bounds its time)."""
    most_untried: int = 24
    """Combinations of other settings that a decision considers beside the two best; definition (bounds its time)."""

    # -- race.py: until one run is complete
    challenger_price: float = 0.05
    """Loss that challengers must be expected to save per full training that they cost; replay."""
    trained_bonus: float = 1e-3
    """Loss that a full training paid already is worth: among equals the furthest leads; replay."""

    # -- refine.py: after the first complete run
    worth: float = 0.005
    """Loss that one more training must be expected to save, else a search without limits ends; replay."""
    worth_per_tenfold: float = 4.0
    """Times that, added per factor of ten of combinations of other settings: the best of more guesses is a luckier
    one; replay."""
    worth_confirmed: float = 2.0
    """Times all that where an earlier study's answer is confirmed; replay."""
    least_spent: float = 2.0
    """Trainings that a search without limits spends at least; replay."""
    least_spent_confirmed: float = 1.0
    """The same where an earlier study's answer is confirmed; definition (one complete run)."""
    follow_until: float = 0.32
    """Trainings up to which a run that is ahead of the best complete one is trained on; replay."""
    least_price: float = 0.05
    """Trainings: a gain is not divided by less; replay."""
    untried_after: int = 3
    """Complete runs after which every value of every setting is tried once; replay."""
    repeat_left: float = 3.0
    """Trainings left below which it does; replay."""
    stays_behind: float = 0.5
    """Share of what it is behind by that it keeps at least; replay."""
    other_schedule_loss: float = 0.05
    """Loss by which it may be behind only because its schedule is another one; replay."""

    # -- answer.py: the band of good learning rates and the edge of divergence
    band_lr_only: BandRule = BandRule(width=0.7, chance=(0.5, 0.3), margin=(0.1, 0.2))
    """Where only the learning rate is searched: to the left the model is sure, to the right lies the edge."""
    band_joint: BandRule = BandRule(width=0.2, chance=(0.25, 0.25), margin=(0.13, 0.13))
    """Where other settings are searched: few runs were trained under the best of them, on either side."""
    band_step: float = 0.05
    """Decades between the learning rates that are asked for; definition."""
    band_reach: float = 1.5
    """Decades to both sides of the best within which the band lies; replay."""
    edge_later: float = 0.6
    """Decades by which the edge may still move left for a run that has only begun; replay."""
    edge_resolution: float = 0.2
    """Decades within which it is chance whether a run diverges; replay."""
    edge_resolution_other_settings: float = 0.6
    """The same where only runs under other settings diverged; replay."""
    noise_reports: int = 8
    """Reports from which a curve's roughness estimates its noise; replay."""
    parabola_share: float = 2 / 3
    """Share of the distance up to which such a parabola says that the basin is flat; replay."""
    lead_from: float = 0.08
    """Trainings from which a run that is ahead of the best belongs to the band; replay."""
    lead_reach: float = 0.5
    """Decades from the best up to which it does; replay."""
    lead_below_edge: float = 0.3
    """Decades below the edge up to which it does; replay."""
    range_end: float = 0.1
    """Decades from an end of the range within which the best counts as lying at the end; replay."""


CONFIG = FreezeThawConfig()
