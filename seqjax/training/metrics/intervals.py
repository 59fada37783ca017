"""Confidence intervals of proportions."""


def accuracy_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's confidence interval for the fraction of correct answers, by scipy.

    .. math::
       \frac{1}{1 + z^2 / n} \left(\hat p + \frac{z^2}{2 n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}\right)

    Args:
      correct: the number of right answers.
      total: n, the number of answers, at least 1.
      confidence: the coverage probability, in (0, 1); z is the corresponding quantile of the normal distribution.

    Returns:
      (low, high), both in [0, 1].

    Raises:
      ValueError: invalid counts or confidence.

    Example:
      >>> low, high = accuracy_interval(870, 1000)
      >>> round(low, 4), round(high, 4)
      (0.8477, 0.8894)

    Reference:
      Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    from scipy import stats  # here, since it takes a second to import

    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"correct={correct} of total={total}: total must be at least 1, and correct from 0 to total")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    low, high = stats.binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
    return float(low), float(high)
