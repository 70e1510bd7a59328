import math

import pytest
import torch
from training_runs import small_training

from training import state as training_state
from training.objective import Batch

BATCH = Batch(
    torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 4, 2, 1]),
    [],
)


def do_step(training, times=1):
    with training.turn() as optimizers:
        return training.step(training.objective.loss(training.model, BATCH) * times, optimizers)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 1e6])
def test_gradients_are_limited_as_torch_does_it(max_grad_norm):
    ours, theirs = (small_training(max_grad_norm=max_grad_norm) for _ in range(2))
    norm = do_step(ours)
    head, adam = theirs.objective.heads[0], theirs.objective.head_optimizers[0]
    with theirs.turn():
        theirs.objective.loss(theirs.model, BATCH).backward()
        parameters = [*theirs.network.parameters(), *head.parameters()]
        expected = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm or torch.inf)
        theirs.optimizer.step()
        adam.step()
    torch.testing.assert_close(norm, expected)
    assert norm > 0.5  # something to limit
    for mine, other in (
        (ours.optimizer, theirs.optimizer),
        (ours.objective.head_optimizers[0], adam),
    ):
        states = [optimizer.state_dict()["state"] for optimizer in (mine, other)]
        assert len(states[0]) == len(states[1]) > 0
        for number, state in states[0].items():
            torch.testing.assert_close(state["exp_avg"], states[1][number]["exp_avg"])


@pytest.mark.parametrize("has_overflown", ["network", "head"])
def test_where_one_of_two_gradients_overflows_the_other_one_is_limited(has_overflown):
    training = small_training(use_amp16=True, max_grad_norm=0.5)
    parts = {"network": training.network, "head": training.objective.heads[0]}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    one = [p for p in parts[has_overflown].parameters() if p.requires_grad][0]
    one.register_hook(lambda gradient: gradient * math.nan)
    norm = do_step(training)
    assert not norm.isfinite()
    for name, part in parts.items():
        same = [torch.equal(p, old) for p, old in zip(part.parameters(), before[name], strict=True)]
        assert all(p.isfinite().all() for p in part.parameters())
        assert all(same) == (name == has_overflown)
    adam = training.objective.head_optimizers[0]
    other = adam if has_overflown == "network" else training.optimizer
    length = torch.stack([state["exp_avg"].norm() for state in other.state.values()]).norm() / 0.1
    torch.testing.assert_close(length, torch.tensor(0.5), rtol=1e-4, atol=0)


def test_optimizers_go_on_as_they_are_made_now():
    training, continued = small_training(), small_training(lr=0.5)
    state = training.state_dict()
    state["optimizer_state_dict"]["param_groups"][0]["fused"] = False  # as of another device
    continued.load_state_dict(state)
    (group,) = continued.optimizer.param_groups
    assert (group["fused"], group["lr"]) == (True, 0.5)


def test_the_scale_of_mixed_precision_goes_on():
    training, continued = (small_training(use_amp16=True) for _ in range(2))
    before = training.scaler.get_scale()
    do_step(training, times=math.inf)
    continued.load_state_dict(training.state_dict())
    assert continued.scaler.get_scale() == training.scaler.get_scale() == before / 2


# Mixed precision


@pytest.mark.parametrize(
    ("words", "able"),
    [
        ("flags : fpu avx2 f16c", set()),
        ("flags : fpu avx512f avx512_bf16", {"bf16"}),
        ("flags : amx_bf16 avx512_fp16", {"bf16", "fp16"}),
        ("Features : fp asimd asimdhp bf16", {"bf16", "fp16"}),
    ],
)
def test_processors_say_what_they_compute_in(tmp_path, monkeypatch, words, able):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\n{words}\n")
    monkeypatch.setattr(training_state, "Path", lambda name: file)
    monkeypatch.setattr(training_state.platform, "system", lambda: "Linux")
    assert {
        name for name in training_state.AMP_DTYPES if training_state.cpu_computes_in(name)
    } == able


def test_only_processors_without_units_are_refused(monkeypatch):
    monkeypatch.setattr(training_state, "cpu_computes_in", lambda name: name == "bf16")
    bf16, fp16 = (
        training_state.Optimization(use_amp16=True, amp_dtype=name) for name in ("bf16", "fp16")
    )
    bf16.check(torch.device("cpu"))
    fp16.check(torch.device("cuda"))
    training_state.Optimization(amp_dtype="fp16").check(torch.device("cpu"))  # not used
    with pytest.raises(ValueError, match="does not compute in fp16.*leave --use_amp16 out"):
        fp16.check(torch.device("cpu"))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda state: state[0].update(exp_avg=torch.tensor(1.0)), r"exp_avg .* is \[\]"),
        (lambda state: state[0].update(exp_avg=state[0]["exp_avg"].int()), "is a torch.int32"),
        (lambda state: state[0].update(exp_avg=[1.0]), "exp_avg .* is a <class 'list'>"),
        (lambda state: state[0].update(step=torch.ones(3)), r"step .* is \[3\], .* \[\]"),
        (lambda state: state[0].pop("exp_avg_sq"), "has step, exp_avg of a parameter"),
        (lambda state: state.update({999: state[0]}), "has no parameter 999"),
    ],
)
def test_moments_that_would_end_the_process_are_refused(change, reason):
    training, continued = small_training(), small_training()
    do_step(training)
    state = training.state_dict()
    change(state["optimizer_state_dict"]["state"])
    with pytest.raises(ValueError, match=reason):
        continued.load_state_dict(state)


def test_moments_get_the_memory_layout_of_their_parameters():
    training, continued = small_training(), small_training()
    do_step(training)
    state = training.state_dict()
    moments = state["optimizer_state_dict"]["state"][0]
    moments["exp_avg"] = torch.zeros(()).expand(moments["exp_avg"].shape)
    continued.load_state_dict(state)
    parameter, values = next(iter(continued.optimizer.state.items()))
    assert values["exp_avg"].stride() == parameter.stride() and not values["exp_avg"].any()


def test_moments_of_another_shape_are_refused():
    training, continued = small_training(), small_training()
    do_step(training)
    state = training.state_dict()
    state["optimizer_state_dict"]["state"][0]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"exp_avg of the optimizer is \[3\]"):
        continued.load_state_dict(state)
