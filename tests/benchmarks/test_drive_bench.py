"""How fast frames of the procedural drive are made, on one core."""

from itertools import count

from pytest_benchmark.fixture import BenchmarkFixture

from unet.drive import Drive


def test_render_128(benchmark: BenchmarkFixture) -> None:
    drive, indices = Drive(size=128), count(step=7)  # through day, town and country
    frame = benchmark(lambda: drive.render(next(indices)))
    assert frame.shape == (128, 128, 3)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["frames_per_s"] = 1 / benchmark.stats.stats.mean
