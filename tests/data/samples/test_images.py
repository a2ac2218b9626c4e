import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lightning_fusion import Expert, ExpertModule, ExpertPool, ImageDataModule
from lightning_fusion.data.image.files import ORIGINAL
from lightning_fusion.data.samples.images import ImagePreprocessing, as_picture
from lightning_fusion.errors import InputError

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


class TestArranging:
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
    def test_a_resize_before_the_crop_is_torchvisions(self, interpolation):
        mode = v2.InterpolationMode(interpolation)
        theirs = v2.Compose([v2.Resize(40, mode), v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float, True)])
        ours = ImagePreprocessing(32, resize=40, interpolation=interpolation)
        for number, (height, width) in enumerate([(57, 90), (91, 50), (64, 64), (20, 33)]):
            image = photo(height, width, number)
            expected = theirs(as_picture(image))
            torch.testing.assert_close(ours([image])[0], expected, atol=1e-7, rtol=0)  # one rounding

    def test_without_it_the_largest_part_is_cut_as_a_data_module_does(self, tmp_path):
        for split, seed in (("train", 0), ("test", 5)):
            for label in ("cat", "dog"):
                (tmp_path / split / label).mkdir(parents=True)
                for row in range(5):
                    as_picture(photo(40 + 7 * row, 66, seed + row)).save(tmp_path / split / label / f"{row}.png")
        small = ImageDataModule(str(tmp_path), image_size=24, mean=MEAN, std=STD)
        whole = ImageDataModule(str(tmp_path), image_size=ORIGINAL)
        expected = small.preprocess(small.rows("test")[torch.arange(4)].input)
        images = whole.preprocess(whole.rows("test")[torch.arange(4)].input)
        assert len({image.shape for image in images}) > 1
        found = ImagePreprocessing(24, mean=MEAN, std=STD)(images)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    def test_stretch_and_pad(self):
        image = photo(20, 40)
        stretched = ImagePreprocessing([10, 12], fit="stretch", scale=1)([image])[0]
        expected = np.asarray(as_picture(image).resize((12, 10), Image.Resampling.BILINEAR))
        assert np.array_equal(stretched.permute(1, 2, 0).numpy(), expected)
        padded = ImagePreprocessing(16, fit="pad", fill=7, scale=1)([image])[0]
        assert (padded[:, :4] == 7).all() and (padded[:, 12:] == 7).all() and (padded[:, 4:12] != 7).any()

    def test_channels_are_converted(self):
        gray, color = ImagePreprocessing(8, channels=1), ImagePreprocessing(8)
        assert gray([photo(9, 9)]).shape == (1, 1, 8, 8)
        assert torch.equal(color([photo(9, 9)[:1]])[:, 0], color([photo(9, 9)[:1]])[:, 2])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"fit": "cut"}, "fit is 'cut'; expected one of crop, stretch, pad"),
            ({"interpolation": "cubic"}, "interpolation is 'cubic'"),
            ({"image_size": [1, 2, 3]}, "image_size is"),
            ({"resize": 7}, "resize is 7 with fit: crop"),
            ({"resize": 9, "fit": "pad"}, "resize is 9 with fit: pad"),
            ({"mean": [0.5]}, "mean has 1 values for 3 channels"),
            ({"std": [0.5, 0, 1]}, "expected numbers above 0"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message):
        with pytest.raises(InputError, match=message):
            ImagePreprocessing(**({"image_size": 8} | arguments))


class TestSamples:
    def test_the_same_image_in_every_form(self):
        way, image = ImagePreprocessing(8), photo(12, 15)
        pixels = image.permute(1, 2, 0).numpy()
        expected = way([image])
        for form in (image.float(), pixels, Image.fromarray(pixels), pixels.astype(float)):
            assert torch.equal(way([form]), expected)
        assert torch.equal(way(image[None]), expected)

    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (torch.rand(2, 3, 9, 9), "values from .* to .*; expected raw values from 0 to 255"),
            (torch.randn(2, 3, 9, 9) * 99, "values from -.*; expected raw values"),
            (torch.zeros(2, 80, 9), r"found shape \(2, 80, 9\); expected a list of images"),
            ({"input_ids": torch.zeros(2, 3)}, "found a dict of input_ids; expected a list of images"),
            (["a text"], "found a sample of a str; expected an image"),
        ],
    )
    def test_others_name_the_expert(self, samples, message):
        expert = Expert(torch.nn.Flatten(), classes=["a", "b"], preprocess=ImagePreprocessing(8))
        pool = ExpertPool({"camera": expert})
        pool.convert_from(None)
        with pytest.raises(InputError, match=rf"expert camera: input: .*{message}"):
            pool(samples)

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            ({"image_size": 32, "channels": 3}, "resizes them to 32 pixels before: set image_size: original"),
            ({"frontend": "log_mel"}, "takes images; the data module gives log-mel features"),
            ({"tokenizer": "x"}, "takes images; the data module gives tokens of texts"),
            ({"mean": [0.0], "std": [1.0]}, "takes images; the data module gives rows of values"),
        ],
    )
    def test_a_data_module_of_others_is_named_before_a_run(self, found, message):
        pool = ExpertPool({"camera": Expert(torch.nn.Flatten(), classes=["a"], preprocess=ImagePreprocessing(8))})
        with pytest.raises(InputError, match=f"expert camera: .*{message}"):
            pool.convert_from(found)

    def test_normalized_input_of_one_size_is_converted_back(self):
        expert = Expert(torch.nn.Flatten(), classes=list(map(str, range(192))), preprocess=ImagePreprocessing(8))
        images = torch.stack([photo(8, 8), photo(8, 8, 1)])
        data = {"image_size": None, "channels": 3, "mean": MEAN, "std": STD, "scale": 1 / 255}
        expected = expert(images)
        expert.convert_from(data)
        normalized = (images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        assert torch.equal(expert(normalized), expected)


class TestOriginalImages:
    def test_a_network_that_takes_one_size_is_named(self, tmp_path):
        expert = Expert(torch.nn.Flatten(), classes=["a", "b"])
        with pytest.raises(InputError, match=r"expert flat: .* original size, .* set preprocess of the expert"):
            ExpertPool({"flat": expert}).convert_from({"image_size": ORIGINAL, "channels": 3})

    def test_arguments_of_one_size_are_contradictions(self):
        with pytest.raises(InputError, match="neither normalized nor augmented; remove mean"):
            ImageDataModule("images", image_size=ORIGINAL, mean=MEAN)

    def test_no_network_is_trained_on_them(self, tmp_path):
        from helpers.models import photos
        from lightning import Trainer

        data = ImageDataModule(str(photos(tmp_path, count=3)), image_size=ORIGINAL)
        module = ExpertModule(network=lambda classes: torch.nn.Linear(3, classes), classes=data.classes)
        trainer = Trainer(fast_dev_run=True, logger=False, enable_progress_bar=False)
        with pytest.raises(InputError, match="set image_size of the data module to a number to train a network"):
            trainer.fit(module, datamodule=data)
