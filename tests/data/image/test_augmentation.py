import pytest
import torch

from lightning_fusion.data.image.augmentation import BatchAffine


class TestBatchAffine:
    @pytest.mark.parametrize("size", [(8, 8), (8, 16), (7, 5)])
    def test_zero_parameters_are_the_identity(self, size):
        images = torch.rand(6, 2, *size)
        torch.testing.assert_close(BatchAffine(flip=False, shift=0)(images), images, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("size", [(8, 16), (32, 32), (7, 5)])
    def test_flip_alone_mirrors_about_half_of_the_images(self, size):
        images = torch.rand(64, 3, *size)
        result = BatchAffine(flip=True, shift=0)(images)
        kept = [torch.allclose(new, old, atol=1e-5) for new, old in zip(result, images, strict=True)]
        mirrored = [torch.allclose(new, old.flip(-1), atol=1e-5) for new, old in zip(result, images, strict=True)]
        assert all(one != other for one, other in zip(kept, mirrored, strict=True))
        assert 12 < sum(mirrored) < 52

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [(8, 8), (16, 8)])
    def test_shifts_move_whole_pixels_and_let_black_in(self, size):
        images = torch.rand(200, 1, *size)
        result = BatchAffine(flip=False, shift=2)(images)
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
        height, width = size
        candidates = {
            (down, right): padded[:, :, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
            for down in range(-2, 3)
            for right in range(-2, 3)
        }
        seen = set()
        for row in range(200):
            fits = [s for s, moved in candidates.items() if torch.allclose(result[row], moved[row], atol=1e-5)]
            assert len(fits) == 1
            seen.add(fits[0])
        assert seen == set(candidates)

    def test_rotation_turns_about_the_centre_by_no_more_than_the_limit(self):
        ramp = torch.linspace(-1, 1, 33)
        image = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij")).expand(40, 2, 33, 33)
        result = BatchAffine(flip=False, shift=0, rotate_deg=20)(image)
        # near the center the coordinates themselves turn: (y, x) read half-way right of the center
        down, right = result[:, 0, 16, 24], result[:, 1, 16, 24]
        angle = torch.rad2deg(torch.atan2(down, right))
        torch.testing.assert_close(down.hypot(right), torch.full((40,), 0.5), atol=1e-3, rtol=0)
        assert angle.abs().max() <= 20.01
        assert angle.min() < -10 < 10 < angle.max()
        torch.testing.assert_close(result[:, :, 16, 16], torch.zeros(40, 2), atol=1e-5, rtol=0)

    def test_rotation_keeps_the_shape_of_things_in_a_wide_image(self):
        ramp_y, ramp_x = torch.arange(17.0) - 8, torch.arange(33.0) - 16
        image = torch.stack(torch.meshgrid(ramp_y, ramp_x, indexing="ij")).expand(20, 2, 17, 33)
        result = BatchAffine(flip=False, shift=0, rotate_deg=30)(image)
        torch.testing.assert_close(
            result[:, 0, 8, 20].hypot(result[:, 1, 8, 20]), torch.full((20,), 4.0), atol=1e-3, rtol=0
        )
        torch.testing.assert_close(
            result[:, 0, 12, 16].hypot(result[:, 1, 12, 16]), torch.full((20,), 4.0), atol=1e-3, rtol=0
        )

    def test_every_image_has_its_own_draw(self):
        images = torch.rand(1, 3, 16, 16).expand(30, 3, 16, 16)
        result = BatchAffine(flip=True, shift=3, rotate_deg=10)(images)
        assert len({tuple(image.flatten().tolist()) for image in result}) == 30
