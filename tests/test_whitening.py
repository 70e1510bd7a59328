import pytest
import torch

from model.whitening import Whitening

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


def test_its_tensors_are_those_of_a_linear_layer():
    shapes = {key: tuple(tensor.shape) for key, tensor in Whitening(6, 5, 2).state_dict().items()}
    assert shapes == {"weight": (5, 6), "bias": (5,)}


@torch.no_grad()
def test_vectors_of_zeros_give_no_nan():
    whitening = Whitening(6, 5)
    whitening.bias.zero_()
    assert whitening(torch.zeros(2, 6)).eq(0).all()


@torch.no_grad()
def test_descriptors_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        whitened = Whitening(6, 5)(DESCRIPTORS)
    assert whitened.dtype == torch.float32
    torch.testing.assert_close(whitened.norm(dim=1), torch.ones(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [0, -1, 6])
def test_other_numbers_of_dimensions(dim):
    with pytest.raises(ValueError, match=f"1 to 5 dimensions, not {dim}"):
        Whitening(6, 5, dim)
