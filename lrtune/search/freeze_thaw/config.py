"""The constants of freeze-thaw and of the answer, each with its unit and its source: :data:`CONFIG`.

Those of the divergence rule stand in :mod:`lrtune.core.divergence`, the budget of a search without limits in
:mod:`lrtune.search.base`.

Units: *decades* are differences of log10 of the (batch-scaled) learning rate; *loss* is the metric normalised so that
0 is the best value seen and 1 that of the untrained model (:meth:`.observations.Observations.scaled`); *trainings* are
fractions of one full training.

Sources: where a line names none, the value was chosen by a program that replays searches on recorded trainings
(``studies/replay/choose.py`` of the repository), together with others, or set by earlier such replays. *Definition*: it
follows from what it is; *time*: it bounds the time of a decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["CONFIG", "FreezeThawConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeThawConfig:
    """The constants of :class:`.FreezeThaw`, by the module that uses them."""

    # -- in several modules: when runs differ
    sigmas: float = 2.0  # standard deviations of a difference beyond which it is none by chance; definition (5 % level)
    tolerance: float = 0.012  # loss within which a run is as good as the best: what repeats differ by on many tasks
    tied: float = 0.0005  # loss within which runs do not differ, and below which another training gains nothing
    fewest: int = 3  # runs or reports that a level or a noise is estimated from; definition (second differences)

    # -- observations.py: curves as the model sees them
    model_points: int = 4  # points of a curve that the model is given, at t, t/2, t/4, ...
    smoothing: float = 1.4  # factor in epochs: a point is the mean of the reports from t / 1.4 to t
    flat: float = 0.01  # relative change of the metric below which it has not changed
    # in the metric's unit: values are cut off there, so that squares stay finite; definition
    largest_value: float = 1e100
    exploded_factor: float = 3.0  # times the worst first report of a slow run: more is not the untrained model's
    # decades from the first run that leaves a plateau to those that are trained on as far
    plateau_neighbour: float = 1.5
    plateau_span: float = 0.9  # decades over which runs that are equal have not begun to learn
    overfit_rise: float = 0.01  # loss, above its minimum, from which a curve has overfitted (beside twice its noise)
    schedule_grid: int = 128  # steps in which a schedule is integrated; definition (numerical accuracy)
    undecayed_noise: float = 0.2  # share of the noise of a high learning rate that annealing does not remove

    # -- model.py: the curve model and its Gaussian process
    decay_powers: tuple[float, ...] = (0.2, 0.4, 0.7, 1.2)  # hypotheses for p: exponents of learning curves in practice
    noise_powers: tuple[float, ...] = (1.0, 2.0)  # hypotheses for q: SGD's noise grows with lr to lr squared
    # hypotheses for log10 s0 (decades), relative to the summed learning rate of the best point; definition
    knees: tuple[float, ...] = tuple(k / 2 for k in range(-8, 3))
    # prior mean of a, b, c (loss): something is left to gain, and the fall begins at the untrained model
    coefficient_mean: tuple[float, float, float] = (-0.2, 1.0, 0.0)
    coefficient_sd: tuple[float, float, float] = (0.4, 0.2, 0.25)  # prior standard deviation of a, b, c (loss)
    misfit_sd: float = 0.012  # standard deviation (loss) of the misfit that stays to the end
    misfit_length: float = 0.52  # its length scale over the learning rate, decades
    settings_sd: float = 0.05  # standard deviation (loss) of what other settings shift, of two that are unlike
    drift_sd: float = 0.13  # standard deviation (loss) of the misfit that grows per factor of ten before the end
    drift_length: float = 0.97  # its length scale over the learning rate, decades
    run_sd: float = 0.0046  # standard deviation (loss) of what one run draws by chance
    report_sd: float = 0.0092  # standard deviation (loss) of one evaluation
    early_sd: float = 0.02  # standard deviation (loss) per factor of ten that the furthest point was trained longer
    run_length: float = 0.3  # decades of the training's fraction over which that chance of a run is forgotten
    scale_shape: float = 3.7  # of the inverse gamma over the scale of all misfit: less lets a table differ more
    least_scale: float = 0.22  # least scale of the misfit, however well the law fits
    negative_coefficient: float = -1e-3  # a hypothesis with a smaller c (loss) is implausible; definition
    negative_penalty: float = 10.0  # log evidence that such a hypothesis, or one with negative b, loses
    misfit_share: float = 0.18  # standard deviation, as a share of a point's distance to the best one trained as long

    # -- beliefs.py: what the model is combined with
    draws: int = 256  # posterior draws of a decision
    optimum_sd: float = 0.2  # standard deviation (decades) of the optimum's place, beside an earlier study's
    overfit_sd: float = 0.1  # the same, added where the optimum is read off a run that overfits
    # loss expected at one standard deviation from the optimum that an earlier study or overfitting leads to expect
    optimum_regret: float = 0.01
    optimum_regret_cap: float = 3.0  # standard deviations beyond which it does not grow: the expectation may be wrong
    edge_sd: float = 0.095  # standard deviation (decades) by which the edge may still move left for a run not begun
    diverged_loss: float = 1.0  # loss predicted for a run beyond the edge; definition (that of the untrained model)
    best_has_learned: float = 0.8  # loss of the best run below which it has learned, so that others are compared
    unlearned_share: float = 0.1  # share of what the best run has learned by then, below which another has not learned
    prior_score_loss: float = 0.005  # loss by which a point of the prior score of settings lowers the expected end
    prior_score_of_earlier_best: float = 2.0  # points of the prior score for the settings of an earlier study's best
    model_runs: int = 40  # runs that the model is fitted to, those trained furthest; definition (time)
    loss_cap: float = 1.3  # loss above which a point counts as this: a worse one says no more
    most_combinations: int = 64  # combinations of the other settings that a search considers; definition (time)
    range_values: int = 3  # values of a range among the other settings: its ends and its middle; definition
    confirmed_margin: float = 0.02  # loss by which runs beside the best are worse where it confirms an earlier study

    # -- prior.py: an earlier study's answer
    prior_sd: float = 0.3  # least standard deviation (decades) of an earlier study's answer
    prior_confirmed: float = 0.2  # decades from its answer within which a best complete run confirms it

    # -- budget.py: how far a run is trained at a time
    first_training: float = 0.024  # trainings of a run's first segment, where a trainer can evaluate so early
    warmups: float = 1.5  # warmups that it lasts where all have one: until then high rates look too good
    last_segment: float = 0.6  # trainings from which on a run is trained to its end at once

    # -- initial_design.py: the first runs
    spacing: float = 1.0  # decades between the first runs: half of the width of a usual basin
    jitter: float = 0.25  # largest shift of the first runs, as a share of the spacing; definition
    bisect_above: float = 0.75  # share of the spacing: a gap beside the best that is wider gets a run in its middle
    plateau_patience: float = 0.2  # trainings for which runs that have not begun to learn are trained on
    plateau_spacing: float = 0.4  # share of the spacing: runs on a plateau that are closer are not both trained on

    # -- candidates.py: where runs may be trained on or started
    apart: float = 0.25  # decades between runs before one is complete; then twice that over the number of complete ones
    closest: float = 0.02  # decades: closer runs differ by less than noise
    # decades to both sides of the best run at which one may be started
    grid: tuple[float, ...] = tuple(np.concatenate([np.arange(0, 0.8, 0.05), np.arange(0.8, 2.1, 0.1)]).tolist())
    joint_grid: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)  # the same where other settings are searched too
    untried_grid: tuple[float, ...] = (0.0, 0.25)  # the same under settings that were never tried
    untried_below_edge: float = 1 / 3  # decades below the edge at which such settings are tried at the highest
    most_runs: int = 50  # complete and paused runs, each, that a decision compares; definition (bounds its time)
    most_untried: int = 24  # combinations of settings considered beside the two best; definition (time)

    # -- overfitting.py: where the furthest run overfits
    overfit_near: float = 0.12  # decades within which a run stands for the one that would end where that was best

    # -- race.py: until one run is complete
    beside: float = 0.1  # trainings up to which a second worker trains neighbours of the leader, which the first trains

    # -- beside.py: runs beside others in one stacked model
    # trainings that a search which ends by itself plans at least, up to which any run that may save something joins
    beside_spent: float = 2.5
    # loss that a run which joins others must be expected to save where full trainings are limited, and will be spent
    beside_worth_of_budget: float = 0.003

    # -- refine.py: after the first complete run
    worth: float = 0.0075  # loss that one more training must be expected to save, else a search without limits ends
    # times that, added per factor of ten of combinations of other settings: the best of more guesses is a luckier one
    worth_per_tenfold: float = 4.0
    worth_confirmed: float = 2.0  # times all that where an earlier study's answer is confirmed
    least_spent: float = 2.0  # trainings that a search without limits spends at least
    least_spent_confirmed: float = 1.0  # the same where an earlier study is confirmed; definition (one complete run)
    # loss that the training of a second worker, or of a run that joins others, must be expected to save, else it waits
    beside_worth: float = 0.01
    neighbourhood: float = 0.5  # decades beside the best within which a run is its neighbour; definition
    neighbour: float = 0.3  # decades beside the best at which one is started where there is none
    least_price: float = 0.05  # trainings: a gain is not divided by less
    untried_after: int = 3  # complete runs after which every value of every setting is tried once
    repeat_left: float = (
        3.0  # trainings left below which a budget goes to repeats under another seed, if little is to gain
    )

    # -- confidence.py: how probable it is that a learning rate is as good as the best
    as_good: float = 0.02  # loss above the optimum up to which a learning rate is as good; definition
    behind_range: tuple[float, float] = (-0.05, 0.2)  # loss by which a run counts as behind at the least and the most
    least_roughness: float = 1e-4  # loss: a smoother curve counts as being as rough
    # weights of `confidence.FEATURES` in the logit; fitted by studies/replay/calibrate.py
    confidence: tuple[float, ...] = (0.346, 0.204, -1.71, -1.8, -0.753, -0.441, -5.7, -0.319, -1.48, 0.23, -0.982)

    # -- answer.py: the band of good learning rates and the edge of divergence
    band_probability: float = 0.5  # probability of being as good from which a learning rate is in the band
    judging_from: float = 0.05  # trainings from which a run can judge its learning rate: the band ends at such runs
    band_step: float = 0.05  # decades between the learning rates that are asked for; definition
    band_reach: float = 1.5  # decades to both sides of the best within which the band lies, and the optimum
    optimum_step: float = 0.1  # decades between the learning rates at which the optimum may lie; definition
    edge_later: float = 0.6  # decades by which the edge may still move left for a run that has only begun
    edge_resolution: float = 0.2  # decades within which it is chance whether a run diverges
    edge_resolution_other_settings: float = 0.6  # the same where only runs under other settings diverged
    noise_reports: int = 8  # reports from which a curve's roughness estimates its noise
    range_end: float = 0.1  # decades from an end of the range within which the best counts as lying at the end


CONFIG = FreezeThawConfig()
