"""Losses against golden numbers of the original code, loops in Python floats, and one another."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from golden_cases import assert_close, golden

from training.losses import LOSSES, LossParams, loss_terms, tuple_loss, tuple_statistics

CASES = ("tuple_losses_a", "tuple_losses_unnorm")
openibl = partial(LossParams, reduction="mean")
cirtorch = partial(LossParams, reduction="sum")
EXECUTED = {  # names of the golden numbers
    "vgb_triplet_m0.1": LossParams(),
    "vgb_triplet_m0.3": LossParams(margin=0.3),
    "vgb_sare_ind": LossParams("sare_ind"),
    "vgb_sare_joint": LossParams("sare_joint"),
    "openibl_triplet": openibl("triplet", margin=0.1**0.5),
    "openibl_sare_ind": openibl("sare_ind"),
    "openibl_sare_joint": openibl("sare_joint"),
    "openibl_dot_sare_ind": openibl("sare_ind", similarity="dot"),
    "openibl_dot_sare_joint": openibl("sare_joint", similarity="dot"),
    "cirtorch_triplet_m0.5": cirtorch("triplet", margin=0.5, power=2),
    "cirtorch_contrastive_m0.7": cirtorch("contrastive", margin=0.7),
    "cirtorch_contrastive_m0.85": cirtorch("contrastive", margin=0.85),
}
TERMS = {
    "relja_hinge_per_triplet_m0.1": LossParams(power=2),
    "sare_gauss_ind_terms": LossParams("sare_ind"),
    "sare_exp_ind_terms": LossParams("sare_ind", similarity="exponential"),
    "sare_cauchy_ind_terms": LossParams("sare_ind", similarity="cauchy"),
    "sare_gauss_joint": LossParams("sare_joint"),
    "sare_exp_joint": LossParams("sare_joint", similarity="exponential"),
    "sare_cauchy_joint": LossParams("sare_joint", similarity="cauchy"),
}


def features_of(case, dtype=torch.float64):
    return torch.from_numpy(case["in.features"]).to(dtype).requires_grad_()


def split(features):
    """Return queries, positives and negatives of [B, q|p|n1..nN, D]."""
    return features[:, 0], features[:, 1], features[:, 2:]


def made_tuples(num_tuples=3, num_negatives=4, dim=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return split(torch.randn(num_tuples, 2 + num_negatives, dim, generator=generator, dtype=dtype))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", EXECUTED)
def test_losses_and_gradients_equal_the_originals(case, name):
    case = golden(case)
    for dtype, tolerance, of_gradients in (
        (torch.float64, 1e-9, 1e-7),
        (torch.float32, 1e-5, 1e-5),
    ):
        features = features_of(case, dtype)
        loss = tuple_loss(EXECUTED[name], *split(features))
        assert loss.shape == () and loss.dtype == dtype
        loss.backward()
        assert_close(loss.item(), case[f"loss.{name}"], tolerance)
        assert_close(features.grad, case[f"grad.{name}"], of_gradients)


@pytest.mark.parametrize("case", CASES)
def test_each_golden_loss_is_tested(case):
    case = golden(case)
    assert set(case.names("loss.")) == set(case.names("grad.")) == set(EXECUTED)
    assert set(case.names("recon.")) == {*TERMS, "relja_violating"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TERMS)
def test_terms_equal_the_formulas_of_the_papers(case, name):
    case = golden(case)
    terms = loss_terms(TERMS[name], *split(features_of(case))).detach()
    terms = terms[:, 0] if name.endswith("joint") else terms
    assert_close(terms, case[f"recon.{name}"], 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_statistics_count_the_negatives_that_violate(case):
    case = golden(case)
    params, features = LossParams(power=2), features_of(case)
    statistics = tuple_statistics(params, *split(features))
    assert statistics.violating.item() == pytest.approx(case["recon.relja_violating"].mean())
    x = case["in.features"].astype(np.float64)
    distances = np.sqrt(((x[:, :1] - x[:, 1:]) ** 2).sum(-1))
    assert statistics.positive_distance.item() == pytest.approx(distances[:, 0].mean(), rel=1e-5)
    assert statistics.negative_distance.item() == pytest.approx(distances[:, 1:].mean(), rel=1e-5)
    assert not any(value.requires_grad for value in statistics)
    plain = tuple_statistics(LossParams(margin=0.3), *split(features)).violating.item()
    assert plain == (distances[:, 1:] < distances[:, :1] + 0.3).mean()


@pytest.mark.parametrize("similarity", ["euclid", "dot", "exponential", "cauchy"])
def test_with_one_negative_sare_ind_is_sare_joint(similarity):
    tuples = made_tuples(num_negatives=1)
    ind, joint = (
        tuple_loss(LossParams(loss, similarity=similarity, reduction="mean"), *tuples)
        for loss in ("sare_ind", "sare_joint")
    )
    torch.testing.assert_close(ind, joint)


def test_sare_of_one_negative_is_the_softplus_of_squared_distances():
    queries, positives, negatives = made_tuples(num_negatives=1)
    terms = loss_terms(LossParams("sare_ind"), queries, positives, negatives)
    rows = zip(queries.tolist(), positives.tolist(), negatives[:, 0].tolist(), strict=True)
    gaps = [math.dist(q, p) ** 2 - math.dist(q, n) ** 2 for q, p, n in rows]
    expected = [math.log1p(math.exp(gap)) for gap in gaps]
    assert terms[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_equal_finite_differences(loss):
    tuples = [part.clone().requires_grad_() for part in made_tuples()]
    params = LossParams(loss, margin=2.0)
    assert torch.autograd.gradcheck(lambda *parts: tuple_loss(params, *parts), tuples)


@pytest.mark.parametrize("loss", LOSSES)
def test_reductions_differ_by_what_they_divide_by(loss):
    tuples = made_tuples(num_tuples=3, num_negatives=4)
    by_triplets, mean, total = (
        tuple_loss(LossParams(loss, margin=2.0, reduction=name), *tuples).item()
        for name in ("triplets", "mean", "sum")
    )
    num_terms = {"sare_joint": 3, "contrastive": 3 * (1 + 4)}.get(loss, 3 * 4)
    assert total > 0
    assert (by_triplets * 3 * 4, mean * num_terms) == pytest.approx((total, total))


def test_a_triplet_costs_nothing_beyond_the_margin():
    query, positive = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    negatives = torch.tensor([[[0.0, 3.05], [0.0, 3.2]]])  # 3 + 0.1 lies between
    terms = loss_terms(LossParams(), query, positive, negatives)
    assert terms.tolist() == [pytest.approx([0.05, 0.0], abs=1e-5)]
    assert tuple_statistics(LossParams(), query, positive, negatives).violating == 0.5


def test_a_larger_margin_costs_more():
    tuples = made_tuples()
    for loss in ("triplet", "contrastive"):
        losses = [tuple_loss(LossParams(loss, margin=m), *tuples).item() for m in (0.5, 2, 4)]
        assert losses == sorted(set(losses))


@pytest.mark.parametrize(
    "params",
    [
        *map(LossParams, LOSSES),
        LossParams(power=2),
        LossParams("sare_ind", similarity="exponential"),
    ],
)
def test_equal_images_give_finite_gradients(params):
    tuples = [torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4, 3)]
    tuples = [part.requires_grad_() for part in tuples]
    tuple_loss(params, *tuples).backward()
    assert all(part.grad.isfinite().all() for part in tuples)


@pytest.mark.parametrize("loss", ["sare_ind", "sare_joint"])
def test_large_similarities_do_not_overflow(loss):
    tuples = [part * 1e4 for part in made_tuples(dtype=torch.float32)]
    for similarity in ("euclid", "dot"):
        assert tuple_loss(LossParams(loss, similarity=similarity), *tuples).isfinite()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_and_autocast_compute_in_float32(loss):
    halves = [part.half() for part in made_tuples(dtype=torch.float32)]
    expected = tuple_loss(LossParams(loss), *(part.float() for part in halves))
    with torch.autocast("cpu", torch.bfloat16):
        for tuples in (halves, [part.float() for part in halves]):
            got = tuple_loss(LossParams(loss), *tuples)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "hinge"}, "--loss must be one of triplet, sare_ind, .*, it is hinge"),
        ({"power": 3}, "--power must be one of 1, 2, it is 3"),
        ({"reduction": "max"}, "--reduction must be one of triplets, mean, sum"),
        ({"similarity": "cosine", "loss": "sare_ind"}, "--similarity must be one of euclid, "),
        ({"margin": -0.1}, "--margin must be a number of at least 0"),
        ({"margin": math.nan}, "--margin must be a number of at least 0"),
        ({"temperature": 0.0}, "--temperature must be a number above 0"),
        ({"similarity": "dot"}, "--similarity is of the SARE losses, --loss triplet has none"),
        ({"loss": "sare_ind", "power": 2}, "--power is of the triplet loss, --loss sare_ind"),
    ],
)
def test_settings_out_of_range_raise(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        LossParams(**settings)
