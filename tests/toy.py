"""A workload of a few lines whose trials fail in every way a trial can."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Scalar = int | float | str

FAULTS = (
    "none",
    "raise",  # an ordinary exception
    "abort",  # dies by a signal
    "exit",  # leaves without a result
    "hang",  # never ends
    "oom",  # allocates past any budget at batch sizes of `oom_from` and up
    "nan",  # the loss is not finite
    "unsupported",
)


@dataclass(frozen=True)
class ToyData:
    train_size: int
    provenance: Mapping[str, Scalar]
    handle: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Toy:
    name = "toy"
    task = "tests.toy_task:ToyTask"
    axes: Mapping[str, tuple[str, ...]] = {"fault": FAULTS, "flavor": ("plain", "sweet")}
    settings: Mapping[str, Scalar] = {"size": 64, "sleep_ms": 1, "oom_from": 1}
    data_settings = frozenset({"size"})
    baselines: Mapping[str, str] = {"mean_color_mse": "a good guess", "grey_mse": "a bad guess"}

    def variant_name(self, axes: Mapping[str, str]) -> str:
        parts = [axes["fault"], *([axes["flavor"]] if axes["flavor"] != "plain" else [])]
        return "+".join(parts)

    def parse_variant(self, name: str) -> dict[str, str]:
        fault, _, flavor = name.partition("+")
        if fault not in FAULTS or flavor not in ("", "plain", "sweet"):
            raise ValueError(f"variant {name!r}: unknown")
        return {"fault": fault, "flavor": flavor or "plain"}

    def compiles(self, axes: Mapping[str, str]) -> bool:
        return False

    def check(self, settings: Mapping[str, Scalar]) -> None:
        if int(settings["size"]) < 1:
            raise ValueError(f"size {settings['size']}: expected at least 1")

    def train_size(self, settings: Mapping[str, Scalar]) -> int:
        return int(settings["size"])

    def prepare(
        self, settings: Mapping[str, Scalar], progress: Callable[[int, int], None]
    ) -> ToyData:
        size = int(settings["size"])
        progress(size, size)
        return ToyData(size, {"source": "toy", "size": size})


TOY = Toy()
