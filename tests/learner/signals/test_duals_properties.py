"""What duals and measures promise for any settings, and end to end; single pieces are in the files beside this one.

Promised: finite and never negative for any finite input; monotone where it must be; convergence to closed-form optima;
the multiplier's unit; the update direction of every measure; nothing outside its subset; a net KL weight of beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from learner.algorithms.advantages import generalised_advantages, length_mask, shape_costs, shape_rewards
from learner.algorithms.losses import policy_loss
from learner.signals.combine import combine_advantages
from learner.signals.measure import Measure, ucb
from learner.signals.multiplier import LogMultiplier, Multiplier, PidMultiplier, ProjectedMultiplier
from learner.signals.window import CostWindow

finite = st.floats(allow_nan=False, allow_infinity=False)
caps = st.floats(1e-3, 1e6)
gains = st.floats(0.0, 1e6)
shares = st.floats(0.0, 1.0)


@st.composite
def duals(draw: st.DrawFn) -> LogMultiplier | ProjectedMultiplier | PidMultiplier:
    """A moving dual of any kind with any settings that its constructor takes, extremes included."""
    cap, delay, share = draw(caps), draw(st.integers(0, 3)), draw(shares)
    kind = draw(st.sampled_from(["log", "projected", "pid"]))
    if kind == "log":
        return LogMultiplier(max(share * cap, 1e-30), lr=draw(gains), cap=cap, delay=delay)
    if kind == "projected":
        return ProjectedMultiplier(share * cap, lr=draw(gains), cap=cap, delay=delay)
    return PidMultiplier(
        share * cap,
        kp=draw(gains),
        ki=draw(gains),
        kd=draw(gains),
        cap=cap,
        delay=delay,
        smoothing=draw(st.floats(0.0, 0.99)),
        derivative_delay=draw(st.integers(1, 4)),
    )


@given(multiplier=duals(), measurements=st.lists(st.one_of(st.none(), finite), max_size=12), limit=finite)
def test_any_dual_stays_finite_and_in_its_bounds_for_any_finite_input(
    multiplier: LogMultiplier | ProjectedMultiplier | PidMultiplier, measurements: list[float | None], limit: float
) -> None:
    for J in measurements:
        value = multiplier.update(J, limit)
        assert math.isfinite(value) and 0.0 <= value <= multiplier.cap


@given(
    lr=st.floats(0.01, 2.0),
    start=st.floats(0.05, 5.0),
    gap=st.floats(-3.0, 3.0),
    wider=st.floats(0.01, 3.0),
    delay=st.integers(0, 3),
)
@pytest.mark.parametrize("make", [LogMultiplier, ProjectedMultiplier])
def test_log_and_projected_rise_strictly_with_the_gap_below_the_cap_and_after_the_delay(
    make: type[LogMultiplier] | type[ProjectedMultiplier], lr: float, start: float, gap: float, wider: float, delay: int
) -> None:
    one, other = (make(start, lr=lr, cap=1e9, delay=delay) for _ in range(2))
    for _ in range(delay):
        assert one.update(gap, 0.0) == other.update(gap + wider, 0.0) == start  # only observed
    assume(start + lr * gap > 0.0)  # at the floor of the projected form both are 0
    low, high = one.update(gap, 0.0), other.update(gap + wider, 0.0)
    assert low < high
    if abs(gap) > 1e-6:
        assert (low > start) == (gap > 0.0)


@given(ki=st.floats(0.01, 2.0), start=st.floats(0.0, 5.0), gaps=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=8))
def test_the_integral_of_pid_is_the_projected_dual(ki: float, start: float, gaps: list[float]) -> None:
    """So it is monotone in every gap, and finds the same fixed point, whatever P and D add."""
    pid = PidMultiplier(start, kp=1.0, ki=ki, kd=1.0, cap=20.0)
    projected = ProjectedMultiplier(start, lr=ki, cap=20.0)
    for gap in gaps:
        pid.update(gap, 0.0)
        projected.update(gap, 0.0)
        assert pid.integral == pytest.approx(projected.value, abs=1e-12)


# --- convergence --------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else 0.0


def run_dual(kind: str, arm_one: Callable[[float], float], limit: float, slope: float, start: float) -> float:
    """The multiplier after 2000 steps of the dual on J = arm_one(lambda); ``slope`` bounds abs(dJ/dlambda)."""
    multiplier: Multiplier = ProjectedMultiplier(start, lr=0.5 / slope, cap=100.0)
    if kind == "pid":
        gains = {"kp": 0.3 / slope, "ki": 0.3 / slope, "kd": 0.1 / slope}
        multiplier = PidMultiplier(start, cap=100.0, smoothing=0.3, derivative_delay=2, **gains)
    for _ in range(2000):
        multiplier.update(arm_one(multiplier.value), limit)
    return multiplier.value


bandits = given(
    reward_gap=st.floats(0.5, 3.0),
    cost_gap=st.floats(1.0, 3.0),
    beta=st.floats(0.1, 0.4),
    prior=st.floats(0.2, 0.8),
    target=st.floats(0.1, 0.9),
    start=st.floats(0.0, 10.0),
)


@bandits
@pytest.mark.parametrize("kind", ["projected", "pid"])
def test_the_papers_bandit_converges_from_either_side(
    kind: str, reward_gap: float, cost_gap: float, beta: float, prior: float, target: float, start: float
) -> None:
    """pi ~ pi0 exp((r - lambda c)/beta): lambda* = (r + beta a)/c with a = logit(prior) - logit(target), or 0."""
    a = math.log(prior / (1 - prior)) - math.log(target / (1 - target))

    def J(multiplier: float) -> float:
        return cost_gap * sigmoid(math.log(prior / (1 - prior)) + (reward_gap - multiplier * cost_gap) / beta)

    optimum = max(0.0, (reward_gap + beta * a) / cost_gap)
    slope = cost_gap**2 / (4.0 * beta)
    # Far above the optimum arm one is hardly ever drawn, and lambda falls by lr * limit per step.
    found = run_dual(kind, J, target * cost_gap, slope, min(start, optimum + 2.0))
    assert found == pytest.approx(optimum, rel=0.01, abs=0.01 * beta / cost_gap)


@bandits
@pytest.mark.parametrize("kind", ["projected", "pid"])
def test_the_products_bandit_with_the_divisor_converges_to_its_own_optimum(
    kind: str, reward_gap: float, cost_gap: float, beta: float, prior: float, target: float, start: float
) -> None:
    """What the combined advantage makes of it, pi ~ pi0 exp((r - lambda c)/((1 + lambda) beta)):

    lambda* = (r + beta a)/(c - beta a), where c > beta a; else the limit is out of reach.
    """
    a = math.log(prior / (1 - prior)) - math.log(target / (1 - target))
    assume(cost_gap - beta * a > 0.3)
    optimum = max(0.0, (reward_gap + beta * a) / (cost_gap - beta * a))
    assume(optimum < 4.0)  # J is flat far out, and the way there long

    def J(multiplier: float) -> float:
        pull = (reward_gap - multiplier * cost_gap) / ((1.0 + multiplier) * beta)
        return cost_gap * sigmoid(math.log(prior / (1 - prior)) + pull)

    # d pull/d lambda = -(r + c)/((1 + lambda)^2 beta), times c/4 at the steepest point of the logistic.
    slope = cost_gap * (reward_gap + cost_gap) / (4.0 * beta)
    found = run_dual(kind, J, target * cost_gap, slope, min(start, optimum + 2.0))
    assert found == pytest.approx(optimum, rel=0.01, abs=0.01 * beta / cost_gap)


# --- units --------------------------------------------------------------------------------------------------------


@given(
    Js=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=20),
    limit=st.floats(-1.0, 1.0),
    lr=st.floats(0.01, 1.0),
    start=st.floats(0.0, 3.0),
)
@pytest.mark.parametrize("kind", ["projected", "pid"])
def test_costs_and_limit_times_ten_run_the_same_course_at_a_tenth_of_the_multiplier(
    kind: str, Js: list[float], limit: float, lr: float, start: float
) -> None:
    """lambda is reward per cost and lr lambda per cost: costs x10 with lr/100 gives lambda/10, at every step."""

    def dual(unit: float) -> Multiplier:
        if kind == "projected":
            return ProjectedMultiplier(start / unit, lr=lr / unit**2, cap=20.0 / unit)
        gains = {"kp": lr / unit**2, "ki": lr / unit**2, "kd": lr / unit**2}
        return PidMultiplier(start / unit, cap=20.0 / unit, **gains)

    plain, scaled = dual(1.0), dual(10.0)
    for J in Js:
        plain.update(J, limit)
        scaled.update(10.0 * J, 10.0 * limit)
        assert 10.0 * scaled.value == pytest.approx(plain.value, rel=1e-9, abs=1e-12)


B, T = 5, 6
seeds = st.integers(0, 2**31)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(seed=seeds, multiplier=st.floats(0.0, 50.0))
def test_the_undivided_policy_gradient_is_unchanged_by_costs_times_ten_at_a_tenth_of_the_multiplier(
    seed: int, multiplier: float
) -> None:
    """The sense of "unchanged": the gradient of (1 + lambda) times the loss, which is that of A_R - lambda*A_C.

    The loss itself is divided by 1 + lambda, which rescaling does not leave alone: the whole step gets longer by
    (1 + lambda)/(1 + lambda/10), in the same direction.
    """

    def gradients(unit: float) -> tuple[Tensor, Tensor]:
        generator, at = torch.Generator().manual_seed(seed), multiplier / unit
        rewards, costs = normal(generator, B, T), unit * normal(generator, B, T)
        old, mask = normal(generator, B, T), length_mask(torch.randint(1, T + 1, (B,), generator=generator), T)
        current = (old + 0.3 * normal(generator, B, T)).requires_grad_()
        combined = combine_advantages(rewards, {"c": costs}, {"c": at}, {})
        (divided,) = torch.autograd.grad(policy_loss(current, old, combined, mask), current, retain_graph=True)
        (whole,) = torch.autograd.grad(policy_loss(current, old, combined * (1.0 + at), mask), current)
        return whole, divided

    (plain, plain_divided), (scaled, scaled_divided) = gradients(1.0), gradients(10.0)
    torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-12)
    longer = (1.0 + multiplier) / (1.0 + multiplier / 10.0)
    torch.testing.assert_close(scaled_divided, plain_divided * longer, rtol=1e-9, atol=1e-12)


# --- measures on a two-armed bandit, from window to gradient ------------------------------------------------------

ARM_COSTS = np.array([[-3.0, -1.0, 0.5, 2.0], [-2.0, 1.0, 3.0, 6.0]])
ARM_PROBABILITIES = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.35, 0.25, 0.3]])
N, THETA, STEP = 1_000_000, 0.3, 0.02

MEASURES = {
    "mean": Measure("mean"),
    "rate": Measure("rate", slope=1.7, intercept=-0.4, scale=0.5),
    "rectified": Measure("rectified"),
    "cvar": Measure("cvar", alpha=0.3),
    "ucb-rate": ucb(Measure("rate")),
    "ucb-mean": ucb(Measure("mean", scale=2.0)),
}


def window_at(theta: float) -> CostWindow:
    """A window that holds every outcome in proportion to its probability under pi(arm 1) = sigma(theta)."""
    p = sigmoid(theta)
    counts = np.rint(np.array([1.0 - p, p])[:, None] * ARM_PROBABILITIES * N).astype(int)
    costs = np.repeat(ARM_COSTS.ravel(), counts.ravel())
    window = CostWindow(costs.size)
    window.extend(costs.tolist(), [0] * costs.size)
    return window


WINDOWS = {theta: window_at(theta) for theta in (THETA - STEP, THETA, THETA + STEP)}


@pytest.mark.parametrize("name", MEASURES)
def test_the_policy_descends_what_the_multiplier_watches(name: str) -> None:
    """The gradient that the cost stream gives, against the finite difference of the J that the dual reads.

    cvar's J has its eta taken anew at either side, and ucb's its half-width, which shrinks as 1/sqrt(n): the policy
    does not descend it, by definition of g, and at a million samples it is below the tolerance.
    """
    measure = MEASURES[name]
    below, here, above = (WINDOWS[theta].read(measure, 0) for theta in sorted(WINDOWS))
    assert below.measure_value is not None and above.measure_value is not None
    expected = (above.measure_value - below.measure_value) / (2 * STEP)

    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    log_arms = torch.stack([torch.nn.functional.logsigmoid(-theta), torch.nn.functional.logsigmoid(theta)])
    current = log_arms.repeat_interleave(4)[:, None]
    weights = current.detach().exp() * torch.from_numpy(ARM_PROBABILITIES).reshape(-1, 1)
    g = torch.from_numpy(measure.g(ARM_COSTS.ravel(), here.measure_state))
    stream = shape_costs(current.detach(), current.detach(), g, torch.ones(8, 1).bool(), kl_coefficient=0.1)
    nothing = torch.zeros(8, 1, dtype=torch.float64)
    advantages, _ = generalised_advantages(stream, nothing, torch.ones(8, 1).bool())
    lam = 1.7
    combined = combine_advantages(nothing, {"harm": advantages}, {"harm": lam}, {})
    # Rows weighted by their probability stand for an infinite batch.
    loss = policy_loss(
        current, current.detach(), combined, torch.ones(8, 1).bool(), importance_weights=weights, token_count=1
    )
    (gradient,) = torch.autograd.grad(loss, theta)
    assert gradient.item() * (1.0 + lam) / lam == pytest.approx(expected, rel=3e-3)


# --- subsets and the KL penalty, from scores to the combined advantage --------------------------------------------


def combined_advantages(
    seed: int, multipliers: list[float], beta: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Streams, GAE and combination of a random batch.

    Returns:
        The combined advantage, the one without constraints (K = 0) and the token mask ``[B, T]``; membership ``[B]``
        of any subset; and the KL part of GAE, sum over later tokens of (gamma*lambda)^l * -beta*k.
    """
    generator = torch.Generator().manual_seed(seed)
    log_probs, reference = normal(generator, B, T), normal(generator, B, T)
    mask = length_mask(torch.randint(1, T + 1, (B,), generator=generator), T)
    settings = {"kl_coefficient": beta}
    rewards = shape_rewards(log_probs, reference, normal(generator, B), mask, **settings)
    reward_advantages, _ = generalised_advantages(rewards, normal(generator, B, T), mask)
    costs, masks = {}, {}
    for k in range(len(multipliers)):
        name = f"c{k}"
        masks[name] = torch.rand(B, generator=generator) < 0.5
        stream = shape_costs(log_probs, reference, normal(generator, B), mask, subset_mask=masks[name], **settings)
        # The critic of a constraint says anything at all, outside its subset too.
        costs[name], _ = generalised_advantages(stream, normal(generator, B, T), mask)
    combined = combine_advantages(reward_advantages, costs, dict(zip(costs, multipliers, strict=True)), masks)
    plain = combine_advantages(reward_advantages, {}, {}, {})
    inside = torch.stack([*masks.values(), torch.zeros(B, dtype=torch.bool)]).any(dim=0)
    penalty = torch.where(mask, -beta * (log_probs - reference), 0.0)
    kl_part = torch.zeros_like(penalty)
    for t in range(T):
        later = torch.arange(t, T)
        kl_part[:, t] = (penalty[:, later] * 0.95 ** (later - t).double()).sum(dim=1)
    return combined, plain, mask, inside, kl_part


multiplier_lists = st.lists(st.floats(0.0, 50.0), min_size=1, max_size=3)


@given(seed=seeds, multipliers=multiplier_lists, beta=st.floats(0.0, 0.5))
def test_a_prompt_outside_every_subset_has_exactly_the_advantage_without_constraints(
    seed: int, multipliers: list[float], beta: float
) -> None:
    combined, plain, _, inside, _ = combined_advantages(seed, multipliers, beta)
    assert torch.equal(combined[~inside], plain[~inside])
    if multipliers[0] > 0.1 and len(multipliers) == 1:
        assert not inside.any() or not torch.equal(combined[inside], plain[inside])


@given(seed=seeds, multipliers=multiplier_lists, beta=st.floats(0.001, 0.5))
def test_beta_adds_its_own_kl_and_no_more_whatever_scores_values_masks_and_multipliers_are(
    seed: int, multipliers: list[float], beta: float
) -> None:
    """Against the same batch at beta 0: the difference is the KL part of GAE with weight beta, K being 1, 2 or 3."""
    with_kl, _, mask, _, kl_part = combined_advantages(seed, multipliers, beta)
    without, _, _, _, _ = combined_advantages(seed, multipliers, 0.0)
    torch.testing.assert_close((with_kl - without)[mask], kl_part[mask], rtol=1e-8, atol=1e-9)
