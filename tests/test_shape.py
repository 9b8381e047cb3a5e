import subprocess
import sys

import pytest

from unet.shape import min_side


def test_importing_it_never_imports_torch() -> None:
    code = "import sys, unet.shape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("depth", range(1, 13))
def test_the_smallest_side_halves_down_to_two_pixels(depth: int) -> None:
    side = min_side(depth)
    for _ in range(depth):
        assert side % 2 == 0
        side //= 2
    assert side == 2
