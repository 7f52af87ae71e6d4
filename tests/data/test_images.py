"""A folder of images, and images of another size than they are stored in."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from reading import check_boxes, read

from gridnn.data.datasets import open_dataset
from gridnn.errors import UserError

Image = pytest.importorskip("PIL.Image")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((40, 30), (33, 64), (48, 48), (100, 31))  # width, height
BOXES = [((0, 7), (3, 24), (0, 3)), ((20, 24), (0, 1), (1, 2)), ((5, 5), (0, 24), (0, 3)), ((3, 9), (11, 24), (0, 3))]


def picture(width, height, seed=0):
    """A smooth one, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width] / 8
    planes = [127 + 90 * np.sin(x * (1 + c) + seed) * np.cos(y + c * seed) for c in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype("uint8"))


def write(folder, classes=("bee", "ant", "cat"), each=4, suffix="png", seed=0):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            picture(*SIZES[i % len(SIZES)], seed + number + i / 9).save(folder / name / f"{i:03}.{suffix}")
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "val", each=3, seed=7)
    return str(tmp_path)


def whole(path, resize):
    """What torchvision's Resize(resize) gives, as fractions."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = min(width, height)
    size = (int(resize * width / short), int(resize * height / short))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)) / 255


class TestFolder:
    def test_classes_are_the_sorted_subfolders(self, folder):
        data = open_dataset(folder, resize=28, crop=24)
        assert (len(data.train), len(data.test), data.train.classes) == (12, 9, 3)
        assert (data.train.sample_shape, data.train.target_shape) == ((24, 24, 3), ())
        assert list(data.train.targets(np.arange(12))) == [0] * 4 + [1] * 4 + [2] * 4

    def test_the_middle_is_cut_out_to_evaluate(self, folder, tmp_path):
        data = open_dataset(folder, resize=28, crop=24)
        for index, name in ((0, "ant/000"), (1, "ant/001"), (5, "bee/002")):
            image = whole(tmp_path / f"val/{name}.png", 28)
            top, left = (round((size - 24) / 2 + 0.01) for size in image.shape[:2])
            expected = (image[top : top + 24, left : left + 24] - MEAN) / STD
            np.testing.assert_allclose(read(data.test, [index])[0], expected, atol=1e-14)

    @pytest.mark.parametrize("step", [0, 1, 77])
    def test_boxes(self, folder, step):
        train = open_dataset(folder, resize=28, crop=24, flip=True, seed=5).train
        everything = tuple((0, size) for size in train.sample_shape)
        indices = np.arange(12)
        image = read(train, indices, everything, step=step)
        for box in BOXES:
            part = image[(slice(None), *(slice(*interval) for interval in box))]
            np.testing.assert_array_equal(read(train, indices, box, step=step), part)
            np.testing.assert_array_equal(read(train, [7, 2], box, step=step), part[[7, 2]])

    def test_crops_and_flips_are_those_of_seed_step_and_index(self, folder, tmp_path):
        def made(step, **options):
            options = {"resize": 28, "crop": 24, "flip": True, "seed": 1} | options
            return read(open_dataset(folder, **options).train, range(12), step=step)

        assert np.array_equal(made(3), made(3))
        for other in (made(4), made(3, seed=2), made(3, flip=False), made(0)):
            assert not np.array_equal(made(3), other)
        # each is one of the squares of its image, mirrored or not; over some steps both occur, and many places
        image = (whole(tmp_path / "train/ant/000.png", 28) - MEAN) / STD
        found = set()
        for step in range(1, 40):
            sample = made(step)[0]
            for mirrored in (False, True):
                candidate = sample[:, ::-1] if mirrored else sample
                found |= {
                    (top, left, mirrored)
                    for top in range(5)
                    for left in range(image.shape[1] - 23)
                    if np.allclose(image[top : top + 24, left : left + 24], candidate, atol=1e-12)
                }
        assert {top for top, _, _ in found} == set(range(5))
        assert len({left for _, left, _ in found}) > 6
        assert {mirrored for _, _, mirrored in found} == {False, True}
        assert len(found) <= 39

    def test_the_same_place_is_not_cut_out_of_every_image(self, tmp_path):
        (tmp_path / "one").mkdir()
        for i in range(20):
            picture(60, 60).save(tmp_path / "one" / f"{i:02}.png")
        samples = read(open_dataset(str(tmp_path), resize=60, crop=24).train, range(16), step=1)
        assert len({sample.tobytes() for sample in samples}) > 12

    def test_large_photographs_are_decoded_in_part(self, tmp_path):
        """A JPEG of four times the size is read at a half; what comes out is nearly the same."""
        write(tmp_path, ["one"], each=1)
        for i in range(5):
            picture(512, 480, i).resize((1024, 960), Image.Resampling.BICUBIC).save(
                tmp_path / "one" / f"{i}.jpg", quality=95
            )
        (tmp_path / "one" / "000.png").unlink()
        test = open_dataset(str(tmp_path), resize=64, crop=60).test
        image = whole(next(tmp_path / "one" / f"{i}.jpg" for i in range(5) if is_test(i)), 64)
        sample = read(test, [0])[0] * STD + MEAN
        assert np.abs(sample - image[2:62, 4:64]).mean() < 0.02

    def test_one_folder_is_divided(self, tmp_path):
        data = open_dataset(write(tmp_path), crop=24)
        assert (len(data.train), len(data.test)) == (9, 3)
        assert data.train.sample_shape == (24, 24, 3)  # --resize is as --crop
        labels = [*data.train.targets(np.arange(9)), *data.test.targets(np.arange(3))]
        assert sorted(labels) == [0] * 4 + [1] * 4 + [2] * 4

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
    def test_all_become_colour(self, tmp_path, mode):
        suffix = "tif" if mode == "CMYK" else "png"
        (tmp_path / "one").mkdir()
        for i in range(5):
            image = picture(30, 30)
            image = Image.fromarray(np.full((30, 30), 300, "uint16")) if mode == "I;16" else image.convert(mode)
            image.save(tmp_path / "one" / f"{i}.{suffix}")
        assert read(open_dataset(str(tmp_path), crop=24).train, [0]).shape == (1, 24, 24, 3)

    @pytest.mark.parametrize("bad", ["truncated", "text", "empty", "gone", "png header"])
    def test_unreadable(self, folder, tmp_path, bad):
        path = tmp_path / "train" / "bee" / "002.png"
        train = open_dataset(folder, resize=28, crop=24).train
        content = path.read_bytes()
        damaged = {"truncated": content[:-200], "text": b"hello", "empty": b"", "png header": content[:20] + bytes(400)}
        if bad == "gone":
            path.unlink()
        else:
            path.write_bytes(damaged[bad])
        read(train, [5, 7])
        with pytest.raises(
            UserError, match=r"\(train\): image 6 \(.*bee/002.png\) cannot be read \(.+\): mend or remove"
        ):
            read(train, [5, 6])

    def test_a_class_without_images(self, folder, tmp_path):
        (tmp_path / "train" / "dog").mkdir()
        (tmp_path / "train" / "dog" / "notes.txt").write_text("none")
        with pytest.raises(UserError, match=r"there are no images \(.jpg, .*\) of dog"):
            open_dataset(folder)

    def test_a_class_of_the_test_alone(self, folder, tmp_path):
        (tmp_path / "val" / "dog").mkdir()
        with pytest.raises(UserError, match="val has classes that there are no images to train with for: dog"):
            open_dataset(folder)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"resize": 20, "crop": 24}, "--crop 24 is larger than images whose shorter side is --resize 20"),
            ({"classes": 4}, "train has 3 subfolders, one a class, not 4: leave --classes out"),
            ({"called": ("a", "b")}, "--names a,b: .* has no .npy files, so it is taken for images"),
        ],
    )
    def test_refused(self, folder, options, message):
        with pytest.raises(UserError, match=message):
            open_dataset(folder, **options)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match=r"has neither .npy files .* nor subfolders"):
            open_dataset(str(tmp_path))

    def test_without_pillow(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(UserError, match=r"Pillow, which is not installed: pip install 'gridnn\[images\]'"):
            open_dataset(folder)


def is_test(index, count=5):
    from gridnn.data.order import split_in_two

    return index in split_in_two(count)[1]


class TestResized:
    @pytest.mark.parametrize("size", [32, 13, 5])
    def test_as_pytorch_interpolates(self, size):
        torch = pytest.importorskip("torch")
        stored, data = (open_dataset("digits", resize=resize).train for resize in (None, size))
        assert data.sample_shape == (size, size, 1)
        x = torch.from_numpy(read(stored, range(20))).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(read(data, range(20)), expected.permute(0, 2, 3, 1).numpy(), atol=1e-12)
        np.testing.assert_array_equal(data.targets(np.arange(20)), stored.targets(np.arange(20)))

    def test_boxes_read_only_what_they_need(self, tmp_path):
        data = open_dataset("digits", resize=29).train
        check_boxes(data, ((0, 29), (13, 29), (0, 1)), ((11, 12), (0, 3), (0, 1)), ((4, 4), (0, 3), (0, 1)))
        asked = []
        original = type(data._images).read
        data._images.read = lambda indices, box, *rest: (asked.append(box), original(data._images, indices, box, *rest))
        read(data, [0], ((0, 10), (25, 29), (0, 1)))
        assert asked == [((0, 4), (6, 8), (0, 1))]

    def test_the_proportion_stays(self, tmp_path):
        content = {f"{name}_{part}": np.zeros((5, 6, 9, 2)) if name == "x" else np.arange(5)
                   for name in "xy" for part in ("train", "test")}  # fmt: skip
        np.savez(tmp_path / "data.npz", **content)
        assert open_dataset(str(tmp_path / "data.npz"), resize=16).train.sample_shape == (16, 24, 2)

    def test_refused(self, tmp_path):
        np.savez(tmp_path / "data.npz", x=np.zeros((5, 6)), y=np.arange(5))
        with pytest.raises(UserError, match=r"--resize 8: needs images of height x width x channels; .* has 6"):
            open_dataset(str(tmp_path / "data.npz"), resize=8)
        with pytest.raises(UserError, match=r"--flip has no effect on arrays"):
            open_dataset(str(tmp_path / "data.npz"), flip=True)
