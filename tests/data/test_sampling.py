import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from googlenet_fast.data.sampling import (
    FLIP,
    Augmentation,
    Batch,
    BatchSampler,
    crop_window,
)
from googlenet_fast.errors import GoogLeNetError


def sampler(
    num_images: int = 103,
    batch_size: int = 4,
    rank: int = 0,
    world_size: int = 1,
    train: bool = True,
) -> BatchSampler:
    augmentation = Augmentation() if train else None
    return BatchSampler(num_images, batch_size, augmentation, 11, rank, world_size)


def indices(batches: list[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.indices]


def test_training_epoch_draws_full_batches_of_distinct_images() -> None:
    batches = list(sampler().batches(epoch=0))
    assert len(batches) == len(sampler()) == 103 // 4
    assert all(len(batch.indices) == 4 for batch in batches)
    assert len(set(indices(batches))) == 100


def test_training_shuffles_globally() -> None:
    order = indices(list(sampler(1000, 10).batches(epoch=0)))
    distance = np.abs(np.array(order) - np.arange(1000)).mean()
    assert distance == pytest.approx(1000 / 3, rel=0.15)  # of two uniform positions


def test_epochs_and_seeds_differ() -> None:
    first, second = (next(sampler().batches(epoch)) for epoch in (0, 1))
    other = next(BatchSampler(103, 4, Augmentation(), 12, 0, 1).batches(0))
    assert first.draws is not None
    for batch in (second, other):
        assert not np.array_equal(first.indices, batch.indices)
        assert batch.draws is not None
        assert not np.isclose(first.draws, batch.draws).all(axis=1).any()


def test_two_ranks_see_what_one_sees_alone() -> None:
    alone = list(sampler(batch_size=8).batches(epoch=5))
    ranks = [list(sampler(batch_size=4, rank=r, world_size=2).batches(epoch=5)) for r in (0, 1)]
    assert len(alone) == len(ranks[0]) == len(ranks[1])
    for whole, *halves in zip(alone, *ranks, strict=True):
        assert np.array_equal(whole.indices, np.concatenate([half.indices for half in halves]))
        draws = np.concatenate([half.draws for half in halves if half.draws is not None])
        assert whole.draws is not None
        assert np.array_equal(whole.draws, draws)


@pytest.mark.parametrize("train", [True, False])
def test_resuming_in_the_middle_continues_the_epoch(train: bool) -> None:
    whole = list(sampler(train=train).batches(epoch=3))
    rest = list(sampler(train=train).batches(epoch=3, images_seen=40))
    assert len(rest) == len(whole) - 10
    for expected, batch in zip(whole[10:], rest, strict=True):
        assert np.array_equal(expected.indices, batch.indices)
        assert (batch.draws is None) == (not train)
        if expected.draws is not None and batch.draws is not None:
            assert np.array_equal(expected.draws, batch.draws)


@given(parts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(0, 6))))
def test_an_epoch_may_change_hands(parts: list[tuple[int, int, int]]) -> None:
    """Each part of it has its own batch size, number of ranks and steps before it is left."""
    seen: list[int] = []
    for batch_size, world_size, steps in [*parts, (2, 1, 103)]:
        ranks = [
            list(sampler(103, batch_size, rank, world_size).batches(4, images_seen=len(seen)))[
                :steps
            ]
            for rank in range(world_size)
        ]
        seen += [int(i) for step in zip(*ranks, strict=True) for part in step for i in part.indices]
    assert len(seen) in (102, 103)  # the last batch of two drops one image at most
    order = indices(list(sampler(103, 1).batches(4)))
    assert seen == order[: len(seen)]


@given(num_images=st.integers(1, 60), world_size=st.integers(1, 9), batch_size=st.integers(1, 20))
def test_evaluation_sees_each_image_once_in_order(
    num_images: int, world_size: int, batch_size: int
) -> None:
    seen = []
    for rank in range(world_size):
        samples = sampler(num_images, batch_size, rank, world_size, train=False)
        batches = list(samples.batches(epoch=0))
        assert len(batches) == len(samples)
        assert indices(batches) == list(range(rank, num_images, world_size))
        seen += indices(batches)
    assert sorted(seen) == list(range(num_images))


@given(num_images=st.integers(1, 60), world_size=st.integers(1, 9), batch_size=st.integers(1, 20))
def test_the_last_training_batch_is_shared_out_evenly_where_it_is_kept(
    num_images: int, world_size: int, batch_size: int
) -> None:
    options = (num_images, batch_size, Augmentation(), 0)
    samplers = [
        BatchSampler(*options, rank, world_size, drop_last=False) for rank in range(world_size)
    ]
    ranks = [list(sampler.batches(epoch=0)) for sampler in samplers]
    steps = math.ceil(num_images / (batch_size * world_size))
    assert [len(sampler) for sampler in samplers] == [steps] * world_size
    for step in zip(*ranks, strict=True):
        assert len({len(batch.indices) for batch in step}) == 1
    seen = [i for rank in ranks for i in indices(rank)]
    assert set(seen) == set(range(num_images))
    assert len(seen) < num_images + world_size


def test_unshuffled_images_keep_their_order() -> None:
    samples = BatchSampler(10, 4, Augmentation(), 0, 0, 1, shuffle=False, drop_last=False)
    assert indices(list(samples.batches(epoch=3))) == list(range(10))
    assert indices(list(samples.batches(epoch=3, images_seen=4))) == [4, 5, 6, 7, 8, 9]


def test_too_few_images_for_a_global_batch() -> None:
    with pytest.raises(
        GoogLeNetError, match=r"7 training images .* batch of 4 in each of 2 processes"
    ):
        sampler(num_images=7, world_size=2)
    assert len(sampler(num_images=8, world_size=2)) == 1


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    position=st.integers(0, 10**7),
    lowest=st.floats(0.2, 1),
)
def test_windows_lie_within_the_image(
    height: int, width: int, position: int, lowest: float
) -> None:
    augmentation = Augmentation(aspect_ratio=(lowest, 1 / lowest))
    (row,) = augmentation.draw(seed=0, epoch=0, first=position, count=1)
    window = crop_window(row, height, width, augmentation.aspect_ratio)
    assert 0 <= window.top <= window.top + window.height <= height
    assert 0 <= window.left <= window.left + window.width <= width
    assert min(window.height, window.width) >= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (20, 400)])
def test_windows_are_distributed_as_torchvisions(height: int, width: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    count = 4000
    rows = Augmentation().draw(
        seed=int(np.random.default_rng().integers(2**32)), epoch=0, first=0, count=count
    )
    ours = np.array([crop_window(row, height, width, (3 / 4, 4 / 3)) for row in rows])
    image = torch.empty(3, height, width)
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(count)
        ]
    )
    for column in range(4):
        spread = math.hypot(ours[:, column].std(), theirs[:, column].std()) / math.sqrt(count)
        difference = ours[:, column].mean() - theirs[:, column].mean()
        assert abs(difference) <= 5 * spread + 0.5


def test_flip_probability() -> None:
    for probability in (0.0, 0.25, 1.0):
        rows = Augmentation(flip=probability).draw(seed=1, epoch=2, first=3, count=4000)
        assert rows[:, FLIP].mean() == pytest.approx(probability, abs=0.04)


@pytest.mark.parametrize(
    "bad",
    [{"area": (0.0, 1.0)}, {"area": (0.5, 1.5)}, {"aspect_ratio": (2.0, 1.0)}, {"flip": 1.5}],
)
def test_bad_augmentation(bad: dict) -> None:
    with pytest.raises(GoogLeNetError, match=next(iter(bad))):
        Augmentation(**bad)
