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
    "oom-backward",  # the same in the backward pass
    "too-large",  # a kernel refuses a tensor at batch sizes of `oom_from` and up
    "hang-later",  # in training, but not where a step is traced
    "oom-later",  # the same in every process after one that came to its end, which `mark` tells
    "oom-python",  # the same, refused by Python
    "oom-numpy",  # by numpy
    "oom-system",  # by the system
    "oom-abort",  # by C++, where nobody catches it
    "oom-compiler",  # by the compiler of generated code, which has too little
    "killed",  # takes more than the memory group `group` has
    "killed-helper",  # so does a process that works for it
    "nan",  # the loss is not finite
    "unsupported",
    "break",  # the graph breaks in each step, which is allowed
    "recompile",  # what the graph was made for changes in step `at_step`
    "unpictured",  # has no previews, for an error
    "heavy",  # the first step takes 256 MiB that later ones do not
    "warming",  # steps become faster until step `at_step`
)

MAKES = (
    "eager",
    "compile",  # with generated code
    "trace",  # as torch.compile goes about it, less the code: quick
    "fake",  # claims to be compiled
)

CHOICES: Mapping[str, tuple[str, ...]] = {
    "fault": FAULTS,
    "flavor": ("plain", "sweet"),
    "make": MAKES,
}

PLAIN = {axis: choices[0] for axis, choices in CHOICES.items()}

SETTINGS: Mapping[str, Scalar] = {
    "size": 64,
    "lost": 0,  # samples that turn out to be unreadable when the data is prepared
    "sleep_ms": 1,
    "oom_from": 1,
    "at_step": 1,
    "group": "none",
    "mark": "none",
}


@dataclass(frozen=True)
class ToyData:
    train_size: int
    provenance: Mapping[str, Scalar]
    handle: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Toy:
    name = "toy"
    task = "tests.toy_task:ToyTask"
    axes = CHOICES
    preferences: Mapping[str, Mapping[str, tuple[str, ...]]] = {
        "fault": {"best": ("unsupported", "none"), "first": ("nan", "none")}
    }
    settings = SETTINGS
    data_settings = frozenset({"size", "lost"})
    baselines: Mapping[str, str] = {"mean_color_mse": "a good guess", "grey_mse": "a bad guess"}

    def variant_name(self, axes: Mapping[str, str]) -> str:
        fault, *others = CHOICES
        parts = [axes[axis] for axis in others if axes[axis] != PLAIN[axis]]
        return "+".join([axes[fault], *parts])

    def parse_variant(self, name: str) -> dict[str, str]:
        parts = [part.strip() for part in name.split("+")]
        axis_of = {value: axis for axis, values in CHOICES.items() for value in values}
        axis_of |= {word: axis for axis, words in self.preferences.items() for word in words}
        if not axis_of.keys() >= set(parts):
            raise ValueError(f"variant {name!r}: unknown")
        return PLAIN | {axis_of[part]: part for part in parts}

    def compiles(self, axes: Mapping[str, str]) -> bool:
        return axes["make"] != "eager"

    def eager_bound(self, axes: Mapping[str, str]) -> dict[str, str]:
        return {**axes, "make": PLAIN["make"]}

    def check(self, settings: Mapping[str, Scalar]) -> None:
        if int(settings["size"]) < 1:
            raise ValueError(f"size {settings['size']}: expected at least 1")

    def train_size(self, settings: Mapping[str, Scalar]) -> int:
        return int(settings["size"])

    def prepare(
        self, settings: Mapping[str, Scalar], progress: Callable[[int, int], None]
    ) -> ToyData:
        size, lost = int(settings["size"]), int(settings["lost"])
        progress(size, size)
        notes = (f"{lost} samples cannot be read.",) if lost else ()
        return ToyData(size - lost, {"source": "toy", "size": size}, notes=notes)


TOY = Toy()
