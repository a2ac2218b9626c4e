import itertools

import numpy as np
import pytest
import torch
from helpers.image_trees import draw_tree, rows
from helpers.splits import SPLITS
from PIL import Image

from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.errors import InputError


class TestFiles:
    def test_images_of_several_sizes_need_image_size(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat"])
        draw_tree(tmp_path, ["home"], ["cat"], size=(6, 4))
        with pytest.raises(InputError, match=r"home/cat/\d.png is 6x4 where others are 4x4; set image_size"):
            DomainImageDataModule(str(tmp_path)).setup("fit")
        assert DomainImageDataModule(str(tmp_path), image_size=5).rows("train").inputs.shape == (12, 3, 5, 5)

    def test_lazily_read_images_of_several_sizes_say_the_same(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat"], count=12)
        draw_tree(tmp_path, ["home"], ["cat"], count=12, size=(6, 4))
        data = DomainImageDataModule(str(tmp_path), memory_limit_gb=1e-9)
        with pytest.raises(InputError, match=r"is \dx4 where others are \dx4; set image_size"):
            list(data.test_dataloader())

    def test_lazy_and_in_memory_batches_are_equal(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=12, size=(7, 5))
        here, there = (
            DomainImageDataModule(str(tmp_path), image_size=6, batch_size=4, memory_limit_gb=limit)
            for limit in (1, 1e-9)
        )
        assert isinstance(here.rows("train").inputs, torch.Tensor)
        assert not isinstance(there.rows("train").inputs, torch.Tensor)
        for split in SPLITS:
            loaders = (getattr(data, f"{split}_dataloader")() for data in (here, there))
            for one, other in zip(*loaders, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    def test_lazy_fingerprints_follow_names_and_sizes(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"])

        def fingerprint():
            return DomainImageDataModule(str(tmp_path), memory_limit_gb=1e-9).fingerprint("train")

        before = fingerprint()
        assert fingerprint() == before
        for path in tmp_path.rglob("*.png"):
            path.write_bytes(path.read_bytes() + b"\0")
        assert fingerprint() != before

    @pytest.mark.parametrize("damage", [b"", b"no image", None])
    @pytest.mark.parametrize("limit", [1.0, 1e-9])
    def test_unreadable_files_are_named_or_left_out_and_counted(self, tmp_path, damage, limit):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=12, size=(40, 40))
        broken = [tmp_path / "clinic" / "cat" / "0.png", tmp_path / "home" / "dog" / "3.png"]
        for path in broken:
            path.write_bytes(path.read_bytes()[:60] if damage is None else damage)
        data = DomainImageDataModule(str(tmp_path), role="fuser", fuser_fraction=0.2, memory_limit_gb=limit)
        with pytest.raises(InputError, match=r"(0|3).png"):
            for split in SPLITS:
                list(data._loader(split))
            list(data.variant(role="expert").train_dataloader())
        skipping = data.variant(skip_unreadable=True)
        with pytest.warns(UserWarning, match=r"left out 2 image\(s\) that cannot be decoded: .*0.png"):
            skipping.setup("fit")
        central = skipping.variant(role="expert")
        used = set().union(*(rows(part, split) for part in (skipping, central) for split in SPLITS))
        assert used == set(range(48)) - {0, 41}  # 10 and 11 stand before 2
        for split in SPLITS:
            list(skipping._loader(split))

    def test_in_memory_the_message_says_what_to_do(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        (tmp_path / "home" / "cat" / "2.png").write_bytes(b"")
        with pytest.raises(
            InputError, match=r"1 image\(s\) cannot be decoded: .*home/cat/2.png .* set skip_unreadable: true"
        ):
            DomainImageDataModule(str(tmp_path)).setup("fit")

    def test_formats_and_modes_are_brought_to_rgb(self, tmp_path):
        for folder, suffix, mode in [("a", "png", "P"), ("b", "png", "RGBA"), ("c", "webp", "RGB"), ("d", "bmp", "L")]:
            (tmp_path / folder / "cat").mkdir(parents=True)
            for row in range(4):
                Image.new("L", (4, 4), 100).convert(mode).save(
                    tmp_path / folder / "cat" / f"{row}.{suffix}", lossless=True
                )
        images = DomainImageDataModule(str(tmp_path)).rows("train").inputs
        assert images.shape == (16, 3, 4, 4)
        assert (images.int() - 100).abs().max() <= 1


class TestDecoding:
    def decoded(self, tmp_path, picture, suffix=".png", **arguments):
        for domain, label in itertools.product("xy", "ab"):
            (tmp_path / domain / label).mkdir(parents=True, exist_ok=True)
            for number in range(6):
                picture.save(tmp_path / domain / label / f"{number}{suffix}", **arguments)
        data = DomainImageDataModule(str(tmp_path), channels=1)
        return data.rows("test")[torch.arange(1)].input[0, 0]

    def test_16_bits_are_scaled_not_cut(self, tmp_path):
        ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        found = self.decoded(tmp_path, Image.fromarray(ramp))
        assert np.array_equal(found.numpy(), (ramp // 257).astype(np.uint8))

    def test_16_bits_of_an_unknown_range_are_rejected(self, tmp_path):
        with pytest.raises(InputError, match="16 bits and values of at most 255, so that their range is unknown"):
            self.decoded(tmp_path, Image.fromarray(np.full((8, 8), 200, np.uint16)))

    def test_a_dark_16_bit_picture_stays_dark(self, tmp_path):
        assert self.decoded(tmp_path, Image.fromarray(np.full((8, 8), 600, np.uint16))).unique().tolist() == [2]

    def test_exif_turns_the_picture_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right to view
        left_dark = np.full((8, 4), 255, np.uint8)
        left_dark[:, :2] = 0
        found = self.decoded(tmp_path, Image.fromarray(left_dark), exif=exif)
        assert found.shape == (4, 8)
        assert found[0].tolist() == [0] * 8
        assert found[3].tolist() == [255] * 8

    def test_what_is_transparent_is_white_and_not_its_hidden_color(self, tmp_path):
        assert self.decoded(tmp_path, Image.new("RGBA", (4, 4), (200, 0, 0, 0))).unique().tolist() == [255]

    def test_pixels_without_a_known_range_are_rejected(self, tmp_path):
        with pytest.raises(InputError, match="floating-point pixels"):
            self.decoded(tmp_path, Image.new("F", (4, 4), 0.5), suffix=".tif")
