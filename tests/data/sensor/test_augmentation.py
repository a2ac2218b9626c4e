import math

import pytest
import torch

from lightning_fusion.data.sensor.augmentation import SensorAugmentation
from lightning_fusion.errors import InputError


def test_a_rotation_is_one_of_the_device_within_the_limit():
    axes = torch.eye(3).repeat(1, 2, 1).expand(300, 6, 3)  # the columns of x, y, z as three points in time
    turned = SensorAugmentation(rotation_deg=40, triples=[[0, 1, 2], [3, 4, 5]])(axes)
    first, second = turned[:, :3], turned[:, 3:]
    torch.testing.assert_close(first, second)  # both sensors turn with the device
    torch.testing.assert_close(first @ first.transpose(1, 2), torch.eye(3).expand(300, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(first), torch.ones(300))
    trace = first.diagonal(dim1=1, dim2=2).sum(1)
    angle = torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))
    assert 38 < float(angle.max()) <= 40.01 and float(angle.min()) < 5


def test_other_channels_do_not_rotate():
    windows = torch.rand(4, 5, 7)
    turned = SensorAugmentation(rotation_deg=90, triples=[[4, 0, 2]])(windows)
    assert torch.equal(turned[:, [1, 3]], windows[:, [1, 3]])
    torch.testing.assert_close(turned[:, [4, 0, 2]].norm(dim=1), windows[:, [4, 0, 2]].norm(dim=1))


def test_time_changes_its_speed_and_keeps_order_and_ends():
    ramp = torch.linspace(0, 1, 101).expand(200, 2, 101)
    warped = SensorAugmentation(time_warp=0.5)(ramp)
    speed = warped.diff(dim=2) * 100
    assert float(speed.min()) > 0.49 and float(speed.max()) < 1.51
    assert float(speed.max()) - float(speed.min()) > 0.9  # the limits are reached
    torch.testing.assert_close(warped[:, :, [0, -1]], ramp[:, :, [0, -1]], atol=1e-5, rtol=0)
    assert torch.equal(warped[:, 0], warped[:, 1]) and not torch.equal(warped[0], warped[1])


def test_noise_follows_each_channel_and_scale_is_one_factor_for_a_window_and_channel():
    windows = torch.randn(400, 2, 50) * torch.tensor([[1.0], [100.0]])
    noise = SensorAugmentation(jitter=0.1)(windows) - windows
    torch.testing.assert_close(noise.std((0, 2)), torch.tensor([0.1, 10.0]), rtol=0.05, atol=0)
    factor = SensorAugmentation(scale=0.2)(windows) / windows
    torch.testing.assert_close(factor, factor[:, :, :1].expand_as(factor), rtol=1e-3, atol=1e-3)
    assert math.isclose(float(factor[:, :, 0].std()), 0.2, rel_tol=0.1)


def test_features_without_time_keep_their_shape():
    assert SensorAugmentation(jitter=0.1, scale=0.1, time_warp=0.2)(torch.rand(5, 7)).shape == (5, 7)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"jitter": -1.0}, "jitter is -1.0"),
        ({"time_warp": 1.0}, "time_warp 1.0; expected 0 or more, and a time_warp below 1"),
        ({"rotation_deg": 5.0}, "triples is None, rotation_deg 5.0; expected both or neither"),
        ({"rotation_deg": 5.0, "triples": [[0, 0, 1]]}, "lists of three channels"),
    ],
)
def test_refuses(how, message):
    with pytest.raises(InputError, match=message):
        SensorAugmentation(**how)


def test_refuses_channels_that_do_not_exist():
    with pytest.raises(InputError, match=r"triples is \[\[3, 4, 5\]\], but the windows have 3 channels"):
        SensorAugmentation(rotation_deg=5, triples=[[3, 4, 5]])(torch.rand(2, 3, 4))
