import pytest

from googlenet_fast.data.gpu_decoding import GpuDecoding, gpu_decoding

GIB = 2**30


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), 0.65), ((8, 0), 0.75), ((9, 0), 0.9)]
)
def test_the_engines_share_follows_the_card(capability: tuple[int, int], expected: float) -> None:
    assert gpu_decoding(capability, 80 * GIB, 8).hw_decoder_load == expected
    assert gpu_decoding(capability, 80 * GIB, 8, 0.0).hw_decoder_load == 0


def test_padding_is_nvidias_where_there_is_room() -> None:
    roomy = gpu_decoding((8, 0), 80 * GIB, 16)
    assert (roomy.device_memory_padding, roomy.host_memory_padding) == (211_025_920, 140_544_512)


@pytest.mark.parametrize(("memory", "num_threads"), [(16, 8), (24, 16), (8, 4)])
def test_padding_takes_little_of_a_small_card(memory: int, num_threads: int) -> None:
    small = gpu_decoding((7, 5), memory * GIB, num_threads)
    assert small.device_memory_padding * num_threads <= 0.05 * memory * GIB
    assert small.host_memory_padding < 140_544_512


def test_padding_is_never_below_dalis_own() -> None:
    tiny = gpu_decoding((7, 5), 4 * GIB, 64)
    assert (tiny.device_memory_padding, tiny.host_memory_padding) == (16_777_216, 8_388_608)


def test_description_and_arguments() -> None:
    decoding = GpuDecoding(0.75, 211_025_920, 140_544_512)
    assert str(decoding) == (
        "75% of the JPEGs by the decoder engine if the card has one, 211 MB of GPU and 2 x 141 MB "
        "of host memory per thread"
    )
    assert decoding.arguments()["preallocate_width_hint"] == 5980
