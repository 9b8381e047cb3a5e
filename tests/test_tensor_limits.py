import pytest

from bench.tensor_limits import too_large


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "upsample_bilinear2d_nhwc only supports output tensors with less than INT_MAX "
            "elements, but got [512, 64, 256, 256]",
            "512 x 64 x 256 x 256 = 2147483648 elements",
        ),
        (
            "upsample_nearest_nhwc only supports input tensors with less than 2^63 - 1 elements, "
            "but got [2, 3]",
            "2 x 3 = 6 elements",
        ),
        ("in words\ninput tensor must fit into 32-bit index math\nand more", "32-bit index math"),
        ("Expected canUse32BitIndexMath(input) to be true, but got false.", "canUse32Bit"),
    ],
)
def test_a_tensor_too_large_for_a_kernel_is_named_in_one_line(text: str, told: str) -> None:
    found = too_large(RuntimeError(text))
    assert found is not None
    assert told in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "text",
    ["CUDA out of memory. Tried to allocate 2.00 GiB", "shape '[2, 3]' is invalid", "", "INT_MAX"],
)
def test_other_failures_are_none_of_a_tensor_s_size(text: str) -> None:
    assert too_large(RuntimeError(text)) is None
