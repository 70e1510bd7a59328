import pytest
import torch

from training.metrics import CHECK_EVERY, NotFiniteError, Progress

CPU = torch.device("cpu")
NAN, INF, ONE = (torch.tensor(value) for value in (float("nan"), float("inf"), 1.0))


def note(progress, losses, norms=None):
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        progress.note(torch.tensor(loss), torch.tensor(norm), num_images=4)


def test_mean_loss_and_images_are_those_of_the_iterations():
    progress = Progress(3, CPU, skips_steps=False)
    note(progress, [2.0, 4.0, 9.0])
    progress.check(now=True)
    stats = progress.stats()
    assert stats.loss == 5 and stats.skipped_steps == 0
    assert progress.iteration == 3 and progress.num_images == 12


@pytest.mark.parametrize(("loss", "norm"), [(NAN, ONE), (INF, ONE), (ONE, NAN), (ONE, INF)])
def test_a_number_that_is_not_finite_ends_the_training_and_is_found(loss, norm):
    progress = Progress(3, CPU, skips_steps=False)
    note(progress, [2.0, 4.0])
    progress.check()
    note(progress, [loss.item(), 1.0, float("nan")], [norm.item(), 1.0, 1.0])
    with pytest.raises(NotFiniteError, match="epoch 3, iteration 2: lower --lr") as error:
        progress.check()
    assert (error.value.epoch, error.value.iteration) == (3, 2)


def test_a_scaler_may_leave_out_steps_but_not_all():
    progress = Progress(0, CPU, skips_steps=True)
    note(progress, [2.0, float("nan"), 4.0], [1.0, 1.0, float("inf")])
    progress.check(now=True)
    assert progress.stats().loss == 3 and progress.stats().skipped_steps == 2
    note(progress, [5.0] * (CHECK_EVERY - 3))
    progress.check()
    for _ in range(CHECK_EVERY - 1):
        note(progress, [float("nan")])
        progress.check()
    note(progress, [float("nan")])
    with pytest.raises(NotFiniteError, match=f"iteration {CHECK_EVERY}: "):
        progress.check()


def test_progress_goes_on_where_it_was_saved():
    first, second = (Progress(3, CPU, skips_steps=True) for _ in range(2))
    note(first, [1.25, float("nan"), 0.1])
    second.load_state_dict(first.state_dict())
    for progress in (first, second):
        note(progress, [0.7])
    assert second.iteration == 4 and second.num_images == 16
    assert first.stats().loss == second.stats().loss
    assert second.stats().skipped_steps == 1


def test_a_step_that_a_scaler_left_out_is_no_reason_to_end_without_one():
    before, after = Progress(0, CPU, skips_steps=True), Progress(0, CPU, skips_steps=False)
    note(before, [float("nan"), 1.0])
    after.load_state_dict(before.state_dict())
    after.check()
    note(after, [1.0, float("inf")])
    with pytest.raises(NotFiniteError, match="iteration 3: "):
        after.check()
