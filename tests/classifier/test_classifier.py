"""The inference object in Python: any images in, names, vectors and explanations out."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import googlenet_fast
from googlenet_fast.classifier import Classifier
from googlenet_fast.classifier.prediction import FilePrediction, predict
from googlenet_fast.data.tar_members import Location
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import save_weights
from tests.http_server import Server

NAMES = ["ape", "bee", "cat"]


@pytest.fixture(scope="module", params=["torchvision", "paper"])
def model(request: pytest.FixtureRequest) -> GoogLeNet:
    model = GoogLeNet(request.param, 3, aux=False, lrn=False).eval()
    model.fc.weight.data[1].abs_()  # there is something to explain
    return model


@pytest.fixture(scope="module")
def classify(model: GoogLeNet, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = tmp_path_factory.mktemp("weights") / "animals.safetensors"
    save_weights(model, path, class_names=NAMES, image_size=64)
    return googlenet_fast.load(path, "cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "ein Foto ü.png"
    Image.effect_noise((90, 70), 80).convert("RGB").save(path)
    return path


def test_every_kind_of_image_is_the_same_image(classify: Classifier, photo: Path) -> None:
    image = Image.open(photo)
    array = np.asarray(image.convert("RGB"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds: list[Any] = [photo, str(photo), image, array, array.copy(order="F"), tensor]
    first, *others = (p.scores for p in classify(kinds))
    assert all(other == first for other in others)  # within one batch, to the bit
    assert [score.name for score in first] == [NAMES[score.index] for score in first]
    assert sum(score.probability for score in first) == pytest.approx(1, abs=1e-5)


def test_a_url_is_an_image(classify: Classifier, photo: Path, server: Server) -> None:
    url = server.add("/a.png", photo.read_bytes())
    assert classify([url])[0] == classify([photo])[0]
    with pytest.raises(GoogLeNetError, match=f"{server.root}/b.png: cannot be downloaded"):
        classify(f"{server.root}/b.png")
    bad = server.add("/c.png", b"no PNG")
    with pytest.raises(GoogLeNetError, match=f"{bad}: cannot be read as an image"):
        classify(bad)


def test_the_best_class_has_names_of_its_own(classify: Classifier, photo: Path) -> None:
    (found,) = classify(photo, top=1)
    assert len(found.scores) == 1
    best = found.scores[0]
    own = found.label, found.index, found.probability
    assert own == (best.name, best.index, best.probability)
    assert list(classify.categories) == NAMES


def test_it_says_what_the_command_says(classify: Classifier, photo: Path) -> None:
    pytest.importorskip("torchvision")
    (expected,) = predict(classify, [Location("a", str(photo))], 3)
    assert isinstance(expected, FilePrediction)
    (found,) = classify(photo, top=3)
    assert [s.index for s in found.scores] == [s.index for s in expected.scores]
    for a, b in zip(found.scores, expected.scores, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=5e-3)  # DALI rounds otherwise


def test_the_transform_feeds_the_model(classify: Classifier, model: GoogLeNet, photo: Path) -> None:
    x = classify.transform(photo)[None]
    assert x.shape == (1, 3, 64, 64)
    with torch.no_grad():
        probabilities = model(x).softmax(1)[0]
    (found,) = classify(photo)
    for score in found.scores:
        assert score.probability == pytest.approx(probabilities[score.index].item(), abs=1e-4)


def test_grey_and_turned_images(classify: Classifier) -> None:
    grey = Image.effect_noise((80, 70), 60)
    as_array, as_image = classify([np.asarray(grey), grey])
    assert as_array == as_image
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[ExifTags.Base.Orientation] = 6  # turned clockwise it is upright
    assert torch.equal(classify.transform(turned), classify.transform(grey))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 3), np.float32), r"float32 \(5, 5, 3\) is no image: give uint8"),
        (np.zeros((3, 5, 5), np.uint8), r"uint8 \(3, 5, 5\) is no image"),
        (np.zeros((0, 5, 3), np.uint8), r"no pixels"),
        (Image.new("RGB", (0, 5)), r"image of 0x5 has no pixels"),
        (torch.zeros(5), r"is no image"),
        (7, r"a int is no image: give a path"),
        ("no such file.jpg", r"no such file\.jpg: cannot be read"),
        (Image.new("F", (5, 5)), r"floating-point"),
    ],
    ids=["floats", "planes", "no pixels", "no width", "vector", "number", "no file", "mode F"],
)
def test_what_is_no_image_is_refused(classify: Classifier, image: Any, message: str) -> None:
    with pytest.raises(GoogLeNetError, match=message):
        classify([image])


def test_no_images(classify: Classifier) -> None:
    assert classify([]) == []
    assert classify.embed([]).shape == (0, 1024)


def test_vectors_give_the_logits(classify: Classifier, model: GoogLeNet, photo: Path) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 70, 80, 3), np.uint8)
    vectors = classify.embed(batch)
    assert vectors.shape == (3, 1024)
    with torch.no_grad():
        logits = model.fc(model.dropout(vectors))
        expected = model(torch.stack([classify.transform(image) for image in batch]))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_an_explanation_is_grad_cam(classify: Classifier, model: GoogLeNet, photo: Path) -> None:
    x = classify.transform(photo)[None]
    with torch.no_grad():
        features = model.forward_features(x)
    features.requires_grad_()
    model.forward_head(features)[0, 1].backward()
    assert features.grad is not None
    weights = features.grad.mean((2, 3), keepdim=True)
    expected = (weights * features.detach()).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(expected, (64, 64), mode="bilinear")[0, 0]
    found = classify.explain(photo, index=1)
    assert (found.index, found.label) == (1, "bee")
    torch.testing.assert_close(found.heat, expected / expected.max(), rtol=1e-3, atol=1e-3)
    assert found.photo.size == found.overlay.size == (64, 64)
    assert classify.explain(photo).label == classify(photo)[0].label
    with pytest.raises(GoogLeNetError, match="class 3: choose from 0 to 2"):
        classify.explain(photo, index=3)


def test_threads(classify: Classifier) -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, 70, 80, 3), np.uint8)
    alone = [classify(image)[0].index for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = [found[0].index for found in pool.map(classify, images)]
    assert together == alone
