import math

import pytest
import torch
import torch.nn.functional as F

from cosface_loss import MarginCosineProduct

IN, CLASSES, BATCH = 6, 5, 7


@pytest.fixture
def batch():
    """Return descriptors, not normalised, and labels: all classes, one of them often."""
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randn(BATCH, IN, generator=generator) * 3
    return descriptors, torch.tensor([0, 1, 2, 3, 4, 2, 2])


def make_head(seed=1, **settings):
    torch.manual_seed(seed)
    return MarginCosineProduct(IN, CLASSES, **settings)


def logits_by_hand(descriptors, weights, labels, s, m):
    """Formula of CosFace with loops over samples and classes, in Python floats."""
    rows = []
    for x, label in zip(descriptors, labels, strict=True):
        row = []
        for j, w in enumerate(weights):
            dot = sum(a * b for a, b in zip(x, w, strict=True))
            cosine = dot / (math.hypot(*x) * math.hypot(*w))
            row.append(s * (cosine - m) if j == label else s * cosine)
        rows.append(row)
    return rows


def loss_by_hand(*arguments):
    rows, labels = logits_by_hand(*arguments), arguments[2]
    losses = [
        math.log(sum(map(math.exp, row))) - row[y] for row, y in zip(rows, labels, strict=True)
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("settings", [{}, {"s": 64.0, "m": 0.35}, {"s": 1.0, "m": 0.9}, {"m": 0.0}])
def test_logits_equal_loops_over_samples_and_classes(batch, settings):
    descriptors, labels = batch
    head = make_head(**settings)
    logits = head(descriptors, labels)
    s, m = settings.get("s", 30.0), settings.get("m", 0.40)  # those of the paper and its code
    expected = logits_by_hand(descriptors.tolist(), head.weight.tolist(), labels.tolist(), s, m)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_without_margin_and_scale_logits_are_cosines(batch):
    descriptors, labels = batch
    head = make_head(s=1.0, m=0.0)
    cosines = F.cosine_similarity(descriptors[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(descriptors, labels), cosines)


def test_lengths_of_descriptors_and_weights_do_not_matter(batch):
    descriptors, labels = batch
    head = make_head()
    expected = head(descriptors, labels)
    with torch.no_grad():
        head.weight *= torch.tensor([0.1, 1, 3, 50, 1000])[:, None]
    torch.testing.assert_close(head(descriptors * 20, labels), expected)


def test_raising_the_margin_raises_the_loss(batch):
    descriptors, labels = batch
    losses = [
        F.cross_entropy(make_head(m=m)(descriptors, labels), labels).item()
        for m in (0.0, 0.1, 0.2, 0.4, 0.8)
    ]
    assert all(low < high for low, high in zip(losses[:-1], losses[1:], strict=True))


def test_loss_and_gradients_equal_finite_differences_of_the_loops(batch):
    """gradcheck needs float64 and the head computes in float32: the loops are the float64 side."""
    descriptors, labels = batch
    descriptors = descriptors.clone().requires_grad_()
    s, m, step = 5.0, 0.40, 1e-5
    head = make_head(s=s, m=m)
    loss = F.cross_entropy(head(descriptors, labels), labels)
    loss.backward()

    tensors = [descriptors.detach().double(), head.weight.detach().double()]

    def by_hand():
        return loss_by_hand(*(t.tolist() for t in tensors), labels.tolist(), s, m)

    assert loss.item() == pytest.approx(by_hand(), rel=1e-5)
    for tensor, gradient in zip(tensors, (descriptors.grad, head.weight.grad), strict=True):
        slopes = torch.zeros_like(tensor)
        for i in range(tensor.numel()):
            value = tensor.view(-1)[i].item()
            tensor.view(-1)[i] = value + step
            above = by_hand()
            tensor.view(-1)[i] = value - step
            slopes.view(-1)[i] = (above - by_hand()) / (2 * step)
            tensor.view(-1)[i] = value
        assert slopes.abs().max() > 0.01
        torch.testing.assert_close(gradient.double(), slopes, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_descriptors_give_float32_logits(batch, dtype):
    descriptors, labels = batch
    head = make_head()
    logits = head(descriptors.to(dtype), labels)
    assert logits.dtype == torch.float32
    # Nothing but the rounding of the input separates them.
    torch.testing.assert_close(logits, head(descriptors.to(dtype).float(), labels))
    torch.testing.assert_close(
        logits / head.s, head(descriptors, labels) / head.s, rtol=0, atol=1e-2
    )


def test_autocast_does_not_lower_the_precision(batch):
    descriptors, labels = batch
    head = make_head()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(descriptors, labels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(descriptors, labels), rtol=0, atol=1e-5)


def test_a_zero_descriptor_gives_finite_logits_and_gradients(batch):
    descriptors, labels = batch
    descriptors = descriptors.clone()
    descriptors[3] = 0
    descriptors.requires_grad_()
    head = make_head()
    logits = head(descriptors, labels)
    assert logits[3].tolist() == pytest.approx([0, 0, 0, -12, 0])
    F.cross_entropy(logits, labels).backward()
    assert descriptors.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_weights_start_xavier_uniform():
    torch.manual_seed(0)
    weight = MarginCosineProduct(128, 400).weight
    assert weight.shape == (400, 128)
    bound = math.sqrt(6 / (400 + 128))
    assert 0.99 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)  # of a uniform


def test_the_state_is_one_weight_and_no_bias():
    shapes = {key: tuple(value.shape) for key, value in make_head().state_dict().items()}
    assert shapes == {"weight": (CLASSES, IN)}


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_out_of_range_raise(batch, label):
    descriptors, labels = batch
    labels = labels.clone()
    labels[2] = label
    with pytest.raises((RuntimeError, IndexError), match="out of bounds|out of range"):
        make_head()(descriptors, labels)
