"""Augmentation and normalization against numpy, and their independence of the number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cifar_jax.devices import REPLICATED, SHARDED, make_mesh, split_over_devices
from cifar_jax.preprocessing import augment

pytestmark = pytest.mark.slow

IMAGES_BHWC = np.random.default_rng(0).integers(0, 256, (16, 8, 9, 3), np.uint8)
INDICES_B = np.random.default_rng(1).permutation(100)[:16].astype(np.int32)


def moved_and_flipped(devices=1, **settings):
    settings = {"epoch": 0, "key": jax.random.key(0), "seed": 0, "flip": "alternating", "crop_padding": 2} | settings
    change = functools.partial(augment.move_and_flip, **settings)
    on_mesh = split_over_devices(
        lambda images_BHWC, indices_B: change(images_BHWC, indices_B=indices_B),
        make_mesh(devices),
        in_specs=(SHARDED, REPLICATED),
        out_specs=SHARDED,
    )
    return np.array(jax.jit(on_mesh)(IMAGES_BHWC, INDICES_B))


def test_shift_and_flip_is_reflect_padding_cropping_and_flipping():
    random = np.random.default_rng(2)
    shifts_B2 = random.integers(-3, 4, (16, 2)).astype(np.int32)
    shifts_B2[:2] = (7, 8), (-7, -8)  # the largest shifts
    flips_B = random.integers(0, 2, 16).astype(bool)
    padded = np.pad(IMAGES_BHWC, ((0, 0), (7, 7), (8, 8), (0, 0)), mode="reflect")
    expected = [
        image[7 + row : 15 + row, 8 + column : 17 + column][:, :: -1 if flip else 1]
        for image, (row, column), flip in zip(padded, shifts_B2, flips_B, strict=True)
    ]
    shifted_BHWC = jax.jit(augment.shift_and_flip)(IMAGES_BHWC, shifts_B2=shifts_B2, flips_B=flips_B)
    assert shifted_BHWC.dtype == np.uint8
    np.testing.assert_array_equal(shifted_BHWC, np.stack(expected))


@pytest.mark.parametrize("flip", ["none", "random", "alternating"])
def test_an_image_is_changed_identically_on_one_device_and_on_eight(flip):
    one, eight = moved_and_flipped(1, flip=flip), moved_and_flipped(8, flip=flip)
    np.testing.assert_array_equal(one, eight)
    assert not np.array_equal(one, IMAGES_BHWC)


def test_alternating_flips_mirror_every_image_in_the_next_epoch():
    epochs = [moved_and_flipped(crop_padding=0, epoch=epoch, key=jax.random.key(epoch)) for epoch in range(3)]
    np.testing.assert_array_equal(epochs[1], epochs[0][:, :, ::-1])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    mirrored_B = (epochs[0] != IMAGES_BHWC).any(axis=(1, 2, 3))
    assert 0 < mirrored_B.sum() < 16


def test_first_flips_are_fair_and_belong_to_the_image():
    flips_N = np.array(augment.first_flips(jnp.arange(4000), seed=0))
    assert abs(flips_N.mean() - 0.5) < 0.04  # five standard deviations
    some = np.array([7, 1234, 3])
    np.testing.assert_array_equal(augment.first_flips(some, seed=0), flips_N[some])
    assert (augment.first_flips(jnp.arange(4000), seed=1) != flips_N).any()


def test_random_flips_follow_the_key():
    first, second = (moved_and_flipped(crop_padding=0, flip="random", key=jax.random.key(k)) for k in (0, 1))
    assert not np.array_equal(first, second)
    for image, original in zip(first, IMAGES_BHWC, strict=True):
        assert np.array_equal(image, original) or np.array_equal(image, original[:, ::-1])


def test_shifts_are_at_most_the_padding():
    """Pixels hold their own position: the position found in the middle gives the shift."""
    places_HW2 = np.stack(np.meshgrid(np.arange(9), np.arange(9), indexing="ij"), axis=-1)
    images_BHWC = np.broadcast_to(places_HW2, (200, 9, 9, 2)).astype(np.uint8)
    move = functools.partial(augment.move_and_flip, epoch=0, seed=0, flip="none", crop_padding=2, key=jax.random.key(0))
    on_mesh = split_over_devices(
        lambda images: move(images, indices_B=jnp.arange(200)), make_mesh(1), in_specs=SHARDED, out_specs=SHARDED
    )
    shifts_B2 = np.array(jax.jit(on_mesh)(images_BHWC))[:, 4, 4].astype(int) - 4
    assert {tuple(shift) for shift in shifts_B2} == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


@pytest.mark.parametrize("side", [1, 3, 8])
def test_cutout_sets_one_whole_square_to_zero(side):
    cut = {}
    for devices in (1, 8):
        on_mesh = split_over_devices(
            functools.partial(augment.cutout, key=jax.random.key(0), batch_size=16, side=side),
            make_mesh(devices),
            in_specs=SHARDED,
            out_specs=SHARDED,
        )
        cut[devices] = np.array(jax.jit(on_mesh)(IMAGES_BHWC + np.float32(1)))
    np.testing.assert_array_equal(cut[1], cut[8])
    blank_BHW = (cut[1] == 0).all(axis=-1)
    assert (blank_BHW.sum(axis=(1, 2)) == side * side).all()
    assert set(blank_BHW.any(axis=2).sum(axis=1)) == set(blank_BHW.any(axis=1).sum(axis=1)) == {side}
    np.testing.assert_array_equal(cut[1][~blank_BHW], (IMAGES_BHWC + np.float32(1))[~blank_BHW])


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [5, 24])
def test_crop_and_resize_is_pillows_crop_and_resize(method, size):
    boxes_B4 = np.array([(0, 0, 8, 9), (0, 0, 1, 1), (7, 8, 1, 1), (2, 3, 5, 4), (3, 0, 4, 9), (0, 6, 8, 3)], np.int32)
    images_BHWC = IMAGES_BHWC[: len(boxes_B4)]
    crop = functools.partial(augment.crop_and_resize, size=size, method=method)
    cropped_BHWC = jax.jit(crop)(images_BHWC, boxes_B4)
    assert cropped_BHWC.dtype == jnp.float32
    for image, image_HWC, (top, left, height, width) in zip(cropped_BHWC, images_BHWC, boxes_B4.tolist(), strict=True):
        for c in range(3):
            part = Image.fromarray(image_HWC[..., c].astype(np.float32)).crop((left, top, left + width, top + height))
            expected = part.resize((size, size), Image.Resampling[method.upper()])
            np.testing.assert_allclose(image[..., c], np.array(expected), atol=1e-3)


def boxes(shape=(32, 32), number=20_000, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), key=0):
    draw = functools.partial(augment.random_boxes, scale=scale, ratio=ratio)
    return np.array(jax.jit(draw, static_argnums=(1, 2))(jax.random.key(key), number, shape))


@pytest.mark.parametrize("shape", [(224, 224), (32, 32), (60, 200)])
def test_boxes_are_within_the_image_and_reach_all_its_edges(shape):
    boxes_B4 = boxes(shape)
    assert boxes_B4.dtype == np.int32
    ends_B2 = boxes_B4[:, :2] + boxes_B4[:, 2:]
    assert (boxes_B4[:, :2] >= 0).all() and (boxes_B4[:, 2:] >= 1).all() and (ends_B2 <= shape).all()
    assert boxes_B4[:, :2].min() == 0
    np.testing.assert_array_equal(ends_B2.max(axis=0), shape)


def test_area_and_ratio_of_boxes_are_distributed_as_in_torchvision():
    """Its loop, in numpy: draw until the box fits."""
    random = np.random.default_rng(0)
    kept = []
    while len(kept) < 20_000:
        area, ratio = random.uniform(0.08, 1) * 224**2, np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        height, width = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if height <= 224 and width <= 224:
            kept.append((height, width))
    expected, sides_B2 = np.array(kept), boxes((224, 224))[:, 2:]
    levels = np.linspace(0.02, 0.98, 25)
    for statistic in (lambda sides: sides.prod(axis=1) / 224**2, lambda sides: np.log(sides[:, 1] / sides[:, 0])):
        np.testing.assert_allclose(
            np.quantile(statistic(sides_B2), levels), np.quantile(statistic(expected), levels), atol=0.025
        )
    assert (sides_B2.prod(axis=1) / 224**2).min() < 0.085


def test_positions_of_boxes_are_uniform():
    boxes_B4 = boxes(scale=(0.25, 0.25), ratio=(1, 1))
    np.testing.assert_array_equal(boxes_B4[:, 2:], 16)
    for side in range(2):
        counts = np.bincount(boxes_B4[:, side], minlength=17)
        assert len(counts) == 17 and abs(counts / counts.mean() - 1).max() < 0.15  # five standard deviations


def test_a_box_that_never_fits_is_cut_to_the_image():
    np.testing.assert_array_equal(boxes((4, 4), 5, scale=(1.0, 1.0), ratio=(4.0, 4.0))[:, 2:], [[2, 4]] * 5)
    np.testing.assert_array_equal(boxes((4, 4), 5, scale=(0.001, 0.001))[:, 2:], 1)  # at least one pixel


@pytest.mark.slow
def test_random_resized_crop_is_identical_on_one_device_and_on_eight():
    cropped = {}
    for devices in (1, 8):
        on_mesh = split_over_devices(
            functools.partial(
                augment.random_resized_crop,
                **{"key": jax.random.key(0), "batch_size": 16, "min_area": 0.08, "size": 12, "method": "bicubic"},
            ),
            make_mesh(devices),
            in_specs=SHARDED,
            out_specs=SHARDED,
        )
        cropped[devices] = np.array(jax.jit(on_mesh)(IMAGES_BHWC))
    assert cropped[1].shape == (16, 12, 12, 3)
    np.testing.assert_allclose(cropped[1], cropped[8], atol=1e-4)
    boxes_B4 = augment.random_boxes(jax.random.key(0), 16, (8, 9), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    expected = augment.crop_and_resize(IMAGES_BHWC, boxes_B4, size=12, method="bicubic")
    np.testing.assert_allclose(cropped[1], expected, atol=1e-4)


def test_mixup_blends_neighbors_with_one_weight():
    random = np.random.default_rng(3)
    images_BHWC = random.normal(size=(16, 4, 4, 3)).astype(np.float32)
    targets_BK = np.eye(10, dtype=np.float32)[np.arange(16) % 10]
    mixed_BHWC, mixed_BK = jax.jit(functools.partial(augment.mixup, key=jax.random.key(4), alpha=0.8))(
        images_BHWC, targets_BK
    )
    weight = float(mixed_BK[0, 0])  # of the first image, the only one of its pair in class 0
    assert 0 < weight < 1
    for before, after in ((images_BHWC, mixed_BHWC), (targets_BK, mixed_BK)):
        after = np.array(after)
        np.testing.assert_allclose(after[::2] + after[1::2], before[::2] + before[1::2], atol=1e-6)
        np.testing.assert_allclose(after[::2], weight * before[::2] + (1 - weight) * before[1::2], atol=1e-6)


def box_of_the_authors(center, weight, shape):
    """`rand_bbox` of the authors' code and of timm: the first and last row and column of the box."""
    sides = [int(side * np.sqrt(1 - weight)) for side in shape]
    return [
        (max(c - side // 2, 0), min(c + side // 2, limit)) for c, side, limit in zip(center, sides, shape, strict=True)
    ]


@pytest.mark.parametrize("shape", [(32, 32), (9, 14)])
def test_the_box_of_cutmix_is_that_of_the_authors(shape):
    random = np.random.default_rng(4)
    box_around = jax.jit(functools.partial(augment.box_around, shape=shape))
    for weight in (*random.uniform(size=30), 0.0, 1.0):
        center = random.integers(0, shape)
        (top, bottom), (left, right) = box_of_the_authors(center, weight, shape)
        expected_HW = np.zeros(shape, bool)
        expected_HW[top:bottom, left:right] = True
        np.testing.assert_array_equal(box_around(center, weight), expected_HW)


@pytest.mark.parametrize("key", range(3))
def test_cutmix_replaces_one_box_and_its_share_of_the_target_on_one_device_and_on_eight(key):
    images_BHWC = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None, None, None], (16, 12, 9, 3))
    targets_BK = np.eye(16, dtype=np.float32)
    mixed = {}
    for devices in (1, 8):
        on_mesh = split_over_devices(
            functools.partial(augment.cutmix, key=jax.random.key(key), alpha=1.0),
            make_mesh(devices),
            in_specs=(SHARDED, SHARDED),
            out_specs=SHARDED,
        )
        mixed[devices] = jax.device_get(jax.jit(on_mesh)(images_BHWC, targets_BK))
    np.testing.assert_array_equal(mixed[1][0], mixed[8][0])
    np.testing.assert_array_equal(mixed[1][1], mixed[8][1])
    mixed_BHWC, mixed_BK = mixed[1]
    neighbors = np.arange(16) ^ 1
    replaced_BHW = (mixed_BHWC != images_BHWC).all(axis=-1)
    assert (replaced_BHW == replaced_BHW[0]).all() and 0 < replaced_BHW[0].sum() < 12 * 9
    rows, columns = replaced_BHW[0].any(axis=1), replaced_BHW[0].any(axis=0)
    np.testing.assert_array_equal(replaced_BHW[0], np.outer(rows, columns))
    np.testing.assert_array_equal(mixed_BHWC[replaced_BHW], images_BHWC[neighbors][replaced_BHW])
    share = replaced_BHW[0].mean()
    np.testing.assert_allclose(mixed_BK, (1 - share) * targets_BK + share * targets_BK[neighbors], atol=1e-6)


def test_new_augmentations_leave_the_random_numbers_of_the_others_as_they_are():
    key = jax.random.fold_in(jax.random.key(3), 7)
    data = [jax.random.key_data(jax.random.split(key, number)) for number in (4, 6)]
    np.testing.assert_array_equal(data[0], data[1][:4])
