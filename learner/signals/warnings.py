"""What a constraint's numbers can hide, said in one sentence. Pure: the caller logs or shows it."""

from __future__ import annotations


def mean_hides_violations(
    measure_name: str, measure_value: float, limit: float, violation_rate: float, threshold: float = 0.05
) -> str | None:
    """Warn when a mean constraint is met while many of its samples are unsafe.

    Very safe answers pay for unsafe ones in a mean (the reference's known flaw over a mixed prompt set).

    Args:
        measure_name: ``mean`` or ``ucb(mean)`` are checked, other measures give None.
        measure_value: J, in the unit of ``limit``.
        violation_rate: share of the subset's samples with raw cost > 0.
        threshold: the highest violation rate that passes in silence.
    """
    if measure_name not in ("mean", "ucb(mean)") or measure_value > limit or violation_rate <= threshold:
        return None
    return (
        f"The mean cost {measure_value:.3g} meets its limit {limit:.3g}, yet {100 * violation_rate:.0f} % of the samples are "
        f"unsafe (cost > 0): very safe answers pay for them, so use the measure 'rate' or restrict the constraint's subset."
    )


def cvar_without_gradient(measure_name: str, alpha: float, violation_rate: float) -> str | None:
    """Warn when more samples are unsafe than the share that cvar averages.

    The quantile eta is then itself an unsafe cost, and g is eta for every sample below it: unsafe or not, they cost the same,
    so nothing tells the policy to make them safe.

    Args:
        measure_name: ``cvar`` or ``ucb(cvar)`` are checked, other measures give None.
        violation_rate: share of the subset's samples with raw cost > 0.
    """
    if measure_name not in ("cvar", "ucb(cvar)") or violation_rate <= alpha:
        return None
    return (
        f"{100 * violation_rate:.0f} % of the samples are unsafe (cost > 0), more than the worst {100 * alpha:g} % that cvar "
        f"averages: all others cost the same, safe or not, so the policy does not learn to avoid them; set alpha above that "
        f"share, or use the measure 'rate'."
    )


def measure_is_too_noisy(measure_value: float, limit: float, standard_error: float | None, samples: int) -> str | None:
    """Warn when the standard error of J in the window exceeds its distance to the limit.

    ``standard_error`` None (below two samples) gives None: the multiplier holds or says so elsewhere.
    """
    distance = abs(measure_value - limit)
    if standard_error is None or standard_error <= distance:
        return None
    return (
        f"The window of {samples} samples cannot tell which side of the limit {limit:.3g} the measure {measure_value:.3g} is on "
        f"(standard error {standard_error:.2g}, distance {distance:.2g}): enlarge the window or the batch, or lower the dual's step."
    )
