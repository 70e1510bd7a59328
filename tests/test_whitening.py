"""Whitenings against golden numbers, against numpy in float64, and by their properties."""

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, its name
import torch
from golden_cases import assert_close, golden
from sklearn.decomposition import PCA

from model.checkpoint_files import save_atomically
from model.checkpoints import load_network
from model.inference import optimize
from model.network import add_whitening, build_network, has_whitening, remove_whitening
from model.whitening import (
    WHITENINGS,
    Whitening,
    fit_learned_whitening,
    fit_whitening,
    principal_axes,
)

CASES = ("pca_primal_a", "pca_dual_a")
VARIANTS = {  # array of the golden case -> kind and options
    "out.openibl_white_gram": ("pca_whiten", {}),
    "out.openibl_plain_gram": ("pca", {"norm": "l2"}),
    "out.vgb_sklearn_gram": ("pca", {}),
    "recon.relja_white_gram": ("pca_whiten", {"floor": "add"}),
    "recon.apanet_pcapw_a0.5_nocentre_gram": ("pca_power", {}),
    "recon.apanet_doWhite1_gram": ("pca_power", {"power": 0.25}),
    "recon.pcapw_centred_gram": ("pca_power", {"is_centred": True}),
}


def make_descriptors(num_images, dim, seed=0):
    """Return unit vectors around a mean, whose variance falls from dimension to dimension."""
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((num_images, dim)) / np.sqrt(np.arange(1, dim + 1))
    turned = spread @ np.linalg.qr(rng.standard_normal((dim, dim)))[0] + 0.3
    return turned / np.linalg.norm(turned, axis=1, keepdims=True)


def apply(whitening, descriptors):
    return whitening(torch.from_numpy(np.asarray(descriptors))).numpy()


def gram(descriptors):
    return descriptors @ descriptors.T


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("array", "variant"), VARIANTS.items(), ids=VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-7), (np.float32, 1e-5)])
def test_kinds_equal_the_original_codes(name, array, variant, dtype, tolerance):
    case, (kind, options) = golden(name), variant
    whitening = fit_whitening(case["in.fit"].astype(dtype), kind, len(case["mid.lams"]), **options)
    found = apply(whitening, case["in.apply"].astype(dtype))
    assert found.dtype == dtype
    assert_close(gram(found.astype(np.float64)), case[array], tolerance)


@pytest.mark.parametrize("name", CASES)
def test_axes_equal_those_of_the_original_code(name):
    case = golden(name)
    dim = len(case["mid.lams"])
    principal = principal_axes(case["in.fit"].astype(np.float64), dim)
    assert_close(principal.variances, case["mid.lams"], 1e-7)
    assert_close(principal.variances, case["mid.vgb_explained_variance"], 1e-7)
    assert_close(principal.mean, case["mid.mu"], 1e-7)
    assert_close(np.abs(principal.axes.T), np.abs(case["mid.U"]), 1e-7)
    assert list(principal.variances) == sorted(principal.variances, reverse=True)


@pytest.mark.parametrize("name", CASES)
def test_the_first_dimensions_are_normalised_again(name):
    case = golden(name)
    descriptors, dim = case["in.fit"].astype(np.float64), len(case["mid.lams"])
    whitening = fit_whitening(
        descriptors, "pca_whiten", dim, int(case["recon.white_then_first_half"])
    )
    found = apply(whitening, case["in.apply"].astype(np.float64))
    assert_close(gram(found), case["recon.white_trunc_gram"], 1e-7)


def test_a_released_layer_gives_the_descriptors_of_the_original_network():
    case = golden("netvlad_openibl_a")
    weight, bias = (case[f"w.pca_layer.{name}"] for name in ("weight", "bias"))
    layer = Whitening(weight.shape[1], len(weight), norm="l2").requires_grad_(False)
    tensors = {"weight": torch.from_numpy(weight[:, :, 0, 0]), "bias": torch.from_numpy(bias)}
    layer.double().load_state_dict({name: tensor.double() for name, tensor in tensors.items()})
    assert_close(apply(layer, case["out.vlad"]), case["out.vlad_pca"], 1e-9)


def test_landmark_whitenings_equal_the_original_code():
    case = golden("whiten_cirtorch_a")
    descriptors, dim = case["in.X_DxN"].T.astype(np.float64), case.meta["cfg"]["k"]
    whitenings = {
        "out.pcawhiten": fit_whitening(descriptors, "pca_whiten", dim, norm="l2_eps"),
        "out.learned_whiten": fit_learned_whitening(
            descriptors, case["in.qidxs"], case["in.pidxs"], dim
        ),
    }
    for array, whitening in whitenings.items():
        found = apply(whitening, case["in.apply_DxM"].T.astype(np.float64))
        assert_close(gram(found), case[f"{array}_gram"], 1e-7)
        assert_close(np.abs(found.T), np.abs(case[array]), 1e-7)


@pytest.mark.parametrize("kind", WHITENINGS)
@pytest.mark.parametrize(("num_images", "dim"), [(40, 24), (25, 24), (24, 40), (200, 24)])
def test_few_and_many_images_give_one_formula(kind, num_images, dim):
    """Primal and dual, against the covariance matrix of numpy."""
    descriptors, others = make_descriptors(num_images, dim), make_descriptors(9, dim, seed=1)
    variances, axes = np.linalg.eigh(np.cov(descriptors.T))
    variances, axes = variances[::-1][:7], axes[:, ::-1][:, :7]
    power = {"pca": 0, "pca_whiten": 1, "pca_power": 0.5}[kind]
    centred = others if kind == "pca_power" else others - descriptors.mean(axis=0)
    expected = centred @ axes * variances ** (-power / 2)
    if kind != "pca":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = apply(fit_whitening(descriptors, kind, 7), others)
    np.testing.assert_allclose(gram(found), gram(expected), atol=1e-10)


def test_dual_equals_primal_on_the_same_descriptors():
    """30 images in 20 dimensions, and the same in 60 dimensions, 40 of which are 0."""
    descriptors = make_descriptors(30, 20)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((60, 20)))[0].T  # [20, 60]
    primal, dual = (
        apply(fit_whitening(images, "pca_whiten", 12), images)
        for images in (descriptors, descriptors @ turn)
    )
    np.testing.assert_allclose(np.abs(dual), np.abs(primal), atol=1e-9)


@pytest.mark.parametrize(("num_images", "dim"), [(300, 24), (20, 64)])
def test_whitened_descriptors_of_the_fit_have_unit_covariance(num_images, dim):
    descriptors = make_descriptors(num_images, dim)
    found = apply(fit_whitening(descriptors, "pca_whiten", 12, norm="none"), descriptors)
    np.testing.assert_allclose(np.cov(found.T), np.eye(12), atol=1e-10)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-10)


def test_explained_variance_is_that_of_sklearn():
    for descriptors in (make_descriptors(50, 16), make_descriptors(16, 50)):
        expected = PCA(5).fit(descriptors)
        principal = principal_axes(descriptors, 5)
        np.testing.assert_allclose(principal.variances, expected.explained_variance_)
        assert principal.explained == pytest.approx(expected.explained_variance_ratio_.sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("num_images", "dim"), [(90, 30), (30, 90)])
def test_descriptors_may_be_mapped_and_come_in_blocks(
    tmp_path, monkeypatch, dtype, num_images, dim
):
    descriptors = make_descriptors(num_images, dim).astype(dtype)
    np.save(tmp_path / "descriptors.npy", descriptors)
    mapped = np.load(tmp_path / "descriptors.npy", mmap_mode="r")
    expected = apply(fit_whitening(descriptors.astype(np.float64), "pca_whiten", 20), descriptors)
    monkeypatch.setattr("model.whitening._NUMBERS_PER_BLOCK", 400)
    whitening = fit_whitening(mapped, "pca_whiten", 20)
    assert whitening.weight.dtype == torch.float32 and not whitening.weight.requires_grad
    found = apply(whitening, descriptors.astype(np.float32))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize(("num_images", "dim"), [(40, 10), (10, 40)])
def test_dimensions_without_variance_are_warned_of_and_harmless(caplog, num_images, dim):
    descriptors = make_descriptors(num_images, 5) @ np.eye(5, dim)
    found = apply(fit_whitening(descriptors, "pca_whiten", 8), descriptors)
    expected = apply(fit_whitening(descriptors, "pca_whiten", 5), descriptors)
    np.testing.assert_allclose(gram(found), gram(expected), atol=1e-6)
    assert "vary along 5 dimensions only: the other 3 of the whitening" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((make_descriptors(1, 8), "pca", 1), "fitted to 2 images or more, not to 1"),
        ((make_descriptors(9, 8), "pca", 0), "at least 1 dimension, not 0"),
        ((make_descriptors(9, 8), "pca", 9), "No whitening to 9 dimensions: 9 images span 8"),
        ((make_descriptors(20, 8), "pca", 9), "the descriptors have 8; take at most"),
        ((make_descriptors(20, 8), "pca", 4, 5), "5 dimensions cannot be kept of a whitening to 4"),
        ((make_descriptors(20, 8), "zca", 4), "Unknown whitening 'zca': choose from pca, "),
        ((np.full((20, 8), np.nan), "pca", 4), "finite descriptors"),
    ],
)
def test_what_cannot_be_fitted_is_said(arguments, text):
    with pytest.raises(ValueError, match=text):
        fit_whitening(*arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"power": 0.5}, "goes with pca_power, not with pca"),
        ({"norm": "l1"}, "Unknown norm of a whitening 'l1'"),
    ],
)
def test_options_are_checked(options, text):
    with pytest.raises(ValueError, match=text):
        fit_whitening(make_descriptors(20, 8), "pca", 4, **options)


def test_a_learned_whitening_needs_pairs_that_differ_along_all_dimensions():
    descriptors = make_descriptors(20, 8)
    with pytest.raises(ValueError, match="The 3 pairs do not differ along all 8 dimensions"):
        fit_learned_whitening(descriptors, np.arange(3), np.arange(3, 6), 4)


# In networks


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("Tiny", 24, backbone_weights="none").eval()


IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("kept_dims", [None, 3])
@pytest.mark.parametrize("kind", WHITENINGS)
def test_a_saved_network_has_its_whitening(network, tmp_path, kind, kept_dims):
    descriptors = network(IMAGES).numpy()
    whitening = fit_whitening(descriptors, kind, 8, kept_dims)
    expected = whitening(torch.from_numpy(descriptors))
    assert add_whitening(network, whitening) is network and has_whitening(network)
    assert network.out_dim == (kept_dims or 8)
    save_atomically(network.state_dict(), tmp_path / "net.pth")
    loaded = load_network(tmp_path / "net.pth").eval()
    assert loaded.architecture == network.architecture
    for model in (network, loaded, optimize(loaded)):
        torch.testing.assert_close(model(IMAGES), expected, rtol=0, atol=1e-5)
    lengths = expected.norm(dim=1)
    assert lengths.sub(1).abs().max().lt(1e-5) == (kind != "pca")


@torch.no_grad()
def test_a_whitening_is_replaced_only_after_it_is_removed(network):
    before, architecture = network(IMAGES), dict(network.architecture)
    whitening = fit_whitening(before.numpy(), "pca", 8)
    assert not has_whitening(remove_whitening(network))
    add_whitening(network, whitening)
    with pytest.raises(ValueError, match="has a whitening already"):
        add_whitening(network, whitening)
    remove_whitening(network)
    assert (network.architecture, network.out_dim) == (architecture, 24)
    assert torch.equal(network(IMAGES), before)


def test_a_whitening_for_other_descriptors_is_refused(network):
    with pytest.raises(ValueError, match="descriptors have 24 numbers, the whitening takes 8"):
        add_whitening(network, Whitening(8, 4))


# The layer

DESCRIPTORS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize(("kept_dims", "out_dim"), [(None, 5), (5, 5), (2, 2), (1, 1)])
def test_whitening_equals_its_formula(kept_dims, out_dim):
    torch.manual_seed(0)
    whitening = Whitening(6, 5, kept_dims)
    weight, bias = whitening.weight.tolist(), whitening.bias.tolist()
    expected = []
    for x in DESCRIPTORS.tolist():
        y = [sum(w * v for w, v in zip(row, x, strict=True)) for row in weight]
        y = [value + b for value, b in zip(y, bias, strict=True)][:out_dim]
        length = sum(value**2 for value in y) ** 0.5 + 1e-6
        expected.append([value / length for value in y])
    assert whitening.out_dim == out_dim
    torch.testing.assert_close(whitening(DESCRIPTORS), torch.tensor(expected))


def test_tensors_of_a_whitening_are_those_of_a_linear_layer():
    shapes = {key: tuple(tensor.shape) for key, tensor in Whitening(6, 5, 2).state_dict().items()}
    assert shapes == {"weight": (5, 6), "bias": (5,)}


@torch.no_grad()
def test_whitened_vectors_of_zeros_give_no_nan():
    whitening = Whitening(6, 5)
    whitening.bias.zero_()
    assert whitening(torch.zeros(2, 6)).eq(0).all()


@torch.no_grad()
def test_whitened_descriptors_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        whitened = Whitening(6, 5)(DESCRIPTORS)
    assert whitened.dtype == torch.float32
    torch.testing.assert_close(whitened.norm(dim=1), torch.ones(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [0, -1, 6])
def test_whitenings_refuse_other_numbers_of_dimensions(dim):
    with pytest.raises(ValueError, match=f"1 to 5 dimensions, not {dim}"):
        Whitening(6, 5, dim)


def test_whitenings_refuse_unknown_norms():
    with pytest.raises(ValueError, match="Unknown whiten_norm 'l1': choose from l2, l2_eps, none"):
        Whitening(6, 5, norm="l1")
