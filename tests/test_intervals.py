"""What is printed as a 95 % interval covers: simulated studies of few and many groups, skewed, bounded, unequal."""

import numpy as np
import pytest
from scipy.stats import bootstrap, t

from medseglatdiff.metrics.intervals import group_interval
from medseglatdiff.metrics.reliability import area_under_risk_coverage, expected_calibration_error

STUDIES = 800
LEAST = 0.92  # of a nominal 95 %, within the Monte Carlo error
GROUPS = (3, 5, 8, 20, 100)
SHAPES = {"symmetric": (5, 5), "near one": (12, 1.2), "near zero": (0.8, 8)}  # Beta distributions of groups' means


def ratio(values: np.ndarray, weights: np.ndarray):
    return lambda kept: values[kept].sum() / weights[kept].sum()


def study(rng, shape: str, num_groups: int, unequal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of images of each group, `(G,)` twice."""
    sizes = np.ceil(rng.lognormal(2, 1, num_groups)) if unequal else np.full(num_groups, 10.0)
    means = rng.beta(*SHAPES[shape], num_groups).clip(1e-4, 1 - 1e-4)
    within = 5 * sizes - 1  # the mean of `size` images that scatter around their group's mean
    return rng.beta(means * within, (1 - means) * within) * sizes, sizes


def share_covered(interval, truth: float, studies) -> float:
    ends = [pair for pair in (interval(*data) for data in studies) if pair is not None]
    assert len(ends) > 0.8 * len(studies)
    return np.mean([low <= truth <= high for low, high in ends])


def enough(num_studies: int) -> float:
    return LEAST - 2 * np.sqrt(LEAST * (1 - LEAST) / num_studies)


@pytest.mark.parametrize("unequal", [False, True], ids=["equal sizes", "unequal sizes"])
@pytest.mark.parametrize("num_groups", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_means_are_covered(shape, num_groups, unequal):
    rng = np.random.default_rng(0)
    studies = [study(rng, shape, num_groups, unequal) for _ in range(STUDIES)]
    a, b = SHAPES[shape]

    def interval(values, sizes):
        return group_interval(ratio(values, sizes), range(num_groups), sizes, (0, 1))

    assert share_covered(interval, a / (a + b), studies) >= enough(STUDIES)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_percentile_bootstrap_of_five_groups_does_not_cover(shape):
    rng = np.random.default_rng(0)
    a, b = SHAPES[shape]

    def interval(values, sizes):
        method = dict(method="percentile", n_resamples=300, vectorized=True, rng=rng)
        return bootstrap((values / sizes,), np.mean, **method).confidence_interval

    studies = [study(rng, shape, 5, unequal=False) for _ in range(200)]
    assert share_covered(interval, a / (a + b), studies) < 0.88


def images(rng, num_groups: int) -> dict[str, np.ndarray]:
    """Images of groups of 1 to 30: errors that groups share, uncertainties that follow them, reliability bins."""
    sizes = rng.integers(1, 31, num_groups)
    groups = np.arange(num_groups).repeat(sizes)  # [N]
    shared = rng.beta(2, 6, num_groups)[groups]  # [N]
    risks = rng.beta(4 * shared, 4 * (1 - shared))  # [N]
    pixels = rng.poisson(rng.uniform(20, 200, num_groups)[groups][:, None], (len(groups), 4)) + 1.0  # [N, bins]
    confidence = pixels * [0.1, 0.4, 0.6, 0.9]
    frequency = rng.binomial(pixels.astype(int), (np.array([0.2, 0.5, 0.75, 1.0]) - shared[:, None] / 2).clip(0, 1))
    return {
        "groups": groups,
        "risks": risks,
        "uncertainties": risks + rng.normal(0, 0.1, len(groups)),
        "areas": rng.lognormal(4, 1, num_groups)[groups] * rng.lognormal(0, 0.5, len(groups)),
        "bins": np.stack([pixels, confidence, frequency], axis=1),  # [N, 3, bins]
    }


STATISTICS = {  # of images: the statistic, what its rows weigh, its bounds
    "pooled Dice": (lambda d: ratio((1 - d["risks"]) * d["areas"], d["areas"]), lambda d: d["areas"], (0, 1)),
    "diversity ratio": (
        lambda d: ratio(0.2 + d["risks"], d["areas"] ** 0.1), lambda d: d["areas"] ** 0.1, (0, np.inf),
    ),
    "AURC": (
        lambda d: lambda kept: area_under_risk_coverage(d["risks"][kept], d["uncertainties"][kept]), lambda d: None,
        (0, 1),
    ),
    "ECE": (
        lambda d: lambda kept: expected_calibration_error(d["bins"][kept].sum(axis=0)),
        lambda d: d["bins"][:, 0].sum(axis=1), (0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("num_groups", [3, 5, 8, 20])
@pytest.mark.parametrize("name", STATISTICS)
def test_ratios_and_curves_are_covered(name, num_groups):
    make, weigh, bounds = STATISTICS[name]
    rng = np.random.default_rng(1)
    population = images(rng, 20_000)
    truth = make(population)(np.ones(len(population["groups"]), bool))
    studies = [(images(rng, num_groups),) for _ in range(300)]

    def interval(data):
        return group_interval(make(data), data["groups"], weigh(data), bounds)

    assert share_covered(interval, truth, studies) >= enough(300)


def test_many_equal_rows_of_a_group_say_no_more_than_one():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=40)
    values, groups = np.repeat(effects, 5), np.repeat(np.arange(40), 5)
    low, high = group_interval(lambda kept: values[kept].mean(), groups)
    reach = t.ppf(0.975, 39) * effects.std(ddof=1) / np.sqrt(40)  # the textbook's interval of the groups' means
    assert (low, high) == pytest.approx((effects.mean() - reach, effects.mean() + reach))
    narrow = group_interval(lambda kept: values[kept].mean(), range(200))
    assert (narrow[1] - narrow[0]) * np.sqrt(5) == pytest.approx(high - low, rel=0.05)


def test_the_scale_follows_the_bounds():
    values = np.array([0.90, 0.95, 0.97, 0.99])

    def ends(bounds):
        return group_interval(lambda kept: values[kept].mean(), range(4), bounds=bounds)

    reach = t.ppf(0.975, 3) * values.std(ddof=1) / 2
    mean = values.mean()
    assert ends((-np.inf, np.inf)) == pytest.approx((mean - reach, mean + reach)) and mean + reach > 1
    assert ends((0, np.inf)) == pytest.approx((mean * np.exp(-reach / mean), mean * np.exp(reach / mean)))
    low, high = ends((0, 1))
    assert 0 < low < mean - reach and mean < high < 1
    odds = [np.log(value / (1 - value)) for value in (low, mean, high)]
    assert np.diff(odds) == pytest.approx([reach / (mean * (1 - mean))] * 2)
    assert ends((-1, 1))[1] < 1 and ends((0, 2))[1] > 1


def test_where_groups_cannot_tell_there_is_no_interval():
    def ends(values, groups, **options):
        values = np.array(values, float)
        return group_interval(lambda kept: values[kept].sum() / kept.sum(), groups, **options)

    assert ends([0.1, 0.5, 0.9], "aab") is None  # two groups
    assert ends([0.5, 0.5, 0.5], "abc") is None  # no difference
    assert ends([0, 0, 0], "abc", bounds=(0, 1)) is None
    assert ends([1, 1, 0], "abc", bounds=(0, 1)) is not None
    assert ends([np.nan, 0.5, 0.2], "abc") is None
    with pytest.raises(ValueError, match="`weights` must be as many as `groups`, 3, but were 2"):
        ends([0.1, 0.2, 0.3], "abc", weights=np.ones(2))


def test_groups_of_unequal_size_have_fewer_degrees_of_freedom():
    values = np.array([0.2, 0.5, 0.3, 0.6])

    def width(weights):
        low, high = group_interval(lambda kept: values[kept].mean(), range(4), np.array(weights))
        return high - low

    assert width([1, 1, 1, 3]) / width([1, 1, 1, 1]) == pytest.approx(t.ppf(0.975, 2) / t.ppf(0.975, 3))  # 36 / 12
    assert width([1, 1, 1, 1e6]) / width([1, 1, 1, 1]) == pytest.approx(t.ppf(0.975, 1) / t.ppf(0.975, 3))
