"""Damage inside a JPEG's data."""

from collections.abc import Callable

import pytest

from googlenet_fast.data import scan_damage as module
from googlenet_fast.data.scan_damage import dali_decoder, scan_damage, torchvision_decoder
from tests.data.odd_images import damaged_inside, encoded, picture, readable_images


@pytest.fixture(params=[dali_decoder, torchvision_decoder])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[[], Callable[[bytes], object]] = request.param
    try:
        decode = make()
    except ImportError as missing:
        pytest.skip(str(missing))
    monkeypatch.setattr(module, "_decoder", lambda: decode)


@pytest.mark.usefixtures("decoder")
def test_damage_is_found() -> None:
    found = {name: scan_damage(content) for name, content in damaged_inside().items()}
    assert found["half and an end"] == "its data ends early (premature end of data segment)"
    assert all(found.values()), found


@pytest.mark.usefixtures("decoder")
def test_whole_images_look_whole() -> None:
    for options in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}):
        assert scan_damage(encoded(picture(), **options)) is None
    assert scan_damage(encoded(picture(), "PNG")) is None


@pytest.mark.usefixtures("decoder")
def test_files_that_the_decoder_refuses_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    for content in readable_images().values():
        scan_damage(content)
    assert scan_damage(encoded(picture())) is None
    assert capfd.readouterr().err == ""
