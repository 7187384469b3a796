"""Reading one image with Pillow."""

from contextlib import ExitStack

from PIL import Image

from googlenet_fast.data.reading import opened
from tests.data.odd_images import encoded, picture


def test_pillows_limit_survives_threads_that_open_images_at_the_same_time() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    content = encoded(picture(), "PNG")
    first, second = ExitStack(), ExitStack()
    first.enter_context(opened(content))
    second.enter_context(opened(content))
    first.close()
    second.close()
    assert limit == Image.MAX_IMAGE_PIXELS
