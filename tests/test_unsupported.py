"""What a device cannot do, and how it says so."""

import platform
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._inductor.utils
from torch._inductor.runtime.hints import DeviceProperties

from bench.runner import Runner
from tests.harness import LIMIT_S
from tests.training import CPU, fastest
from unet.apply import caveats, unsupported
from unet.capability import lacking
from unet.variant import (
    ActivationBudget,
    Checkpointing,
    Compile,
    CudnnBenchmark,
    MemoryFormat,
    Optimizer,
    Precision,
    Variant,
)
from unet.workload import COLORIZATION

CUDA = torch.device("cuda", 0)
NOTHING = {"avx512_fp16": False, "amx_fp16": False, "avx512_bf16": False, "amx_bf16": False}
ARM = {"fp16_arith": False, "bf16": False}


def test_a_device_that_is_not_there_or_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unsupported(Variant(), torch.device("cuda")) == "torch sees no CUDA device"
    assert unsupported(Variant(), torch.device("mps")) == (
        "device type 'mps' is neither cpu nor cuda"
    )


# CPUs.


def of_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], variant: str, limit: str = "ALL"
) -> str | None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    return unsupported(Variant.parse(variant), CPU)


@pytest.mark.parametrize("memory_format", list(MemoryFormat))
@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("checkpointing", list(Checkpointing))
def test_every_cpu_can_do_what_is_fp32_and_eager(
    monkeypatch: pytest.MonkeyPatch,
    memory_format: MemoryFormat,
    optimizer: Optimizer,
    checkpointing: Checkpointing,
) -> None:
    variant = Variant(Precision.FP32, memory_format, optimizer, checkpointing=checkpointing)
    assert of_cpu(monkeypatch, NOTHING, variant.name) is None


@pytest.mark.parametrize(
    ("capabilities", "variant", "names"),
    [
        (NOTHING, "bf16", "avx512_bf16, amx_bf16"),
        (NOTHING, "fp16+channels_last", "amx_fp16"),
        (ARM, "bf16", "bf16"),
        (ARM, "fp16", "fp16_arith"),
        # The one is no evidence for the other.
        (NOTHING | {"amx_bf16": True}, "fp16", "amx_fp16"),
        (NOTHING | {"avx512_fp16": True}, "fp16", "amx_fp16"),
        (NOTHING | {"avx512_fp16": True}, "bf16", "avx512_bf16, amx_bf16"),
    ],
)
def test_a_format_the_cpu_would_emulate_is_refused(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], variant: str, names: str
) -> None:
    precision = variant.split("+")[0]
    assert of_cpu(monkeypatch, capabilities, variant) == (
        f"this CPU has no {precision} arithmetic ({names}); emulated, it is slower than fp32"
    )


@pytest.mark.parametrize(
    ("capabilities", "variant"),
    [
        (NOTHING | {"avx512_bf16": True}, "bf16"),
        (NOTHING | {"amx_bf16": True}, "bf16"),
        (NOTHING | {"amx_fp16": True}, "fp16"),
        (ARM | {"bf16": True}, "bf16"),
        (ARM | {"fp16_arith": True}, "fp16"),
    ],
)
def test_a_format_the_cpu_computes_in_is_supported(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], variant: str
) -> None:
    assert of_cpu(monkeypatch, capabilities, variant) is None


BF16 = NOTHING | {"avx512_bf16": True}
AMX = BF16 | {"amx_bf16": True}
AMX_FP16 = AMX | {"amx_fp16": True}


@pytest.mark.parametrize(
    ("capabilities", "limit", "fast"),
    [
        (AMX_FP16, "ALL", ["bf16", "fp16"]),
        (AMX_FP16, "not known to oneDNN", ["bf16", "fp16"]),
        (AMX_FP16, "avx10_1_512_amx_fp16", ["bf16", "fp16"]),
        (AMX_FP16, "AVX512_CORE_AMX", ["bf16"]),
        (AMX_FP16, "AVX10_1_512", ["bf16"]),
        (AMX_FP16, "AVX512_CORE_BF16", ["bf16"]),
        (NOTHING | {"amx_bf16": True}, "AVX512_CORE_BF16", []),
        (AMX, "AVX512_CORE_VNNI", []),
        (AMX, "avx512_core", []),
        (BF16, "DEFAULT", ["bf16"]),
        (BF16, "AVX2", []),
        (NOTHING, "ALL", []),
        (ARM | {"bf16": True, "fp16_arith": True}, "ALL", ["bf16", "fp16"]),
    ],
)
def test_a_limit_on_what_onednn_uses_takes_formats_away(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], limit: str, fast: list[str]
) -> None:
    able = [p for p in ("bf16", "fp16") if of_cpu(monkeypatch, capabilities, p, limit) is None]
    assert able == fast
    assert fastest(CPU) == (fast or ["fp32"])[0]


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    assert of_cpu(monkeypatch, BF16, "bf16") is None
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv(variable, "avx2")
    reason = lacking(Precision.BF16, CPU)
    assert reason is not None
    assert reason.startswith(f"{variable}=AVX2 leaves out this CPU's bf16 arithmetic (avx512_bf16)")


# As Linux calls what torch calls otherwise.
CPUINFO = {"fp16": {"amx_fp16"}, "bf16": {"avx512_bf16", "amx_bf16"}}


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads Linux's x86 flags"
)
@pytest.mark.parametrize("precision", CPUINFO)
def test_of_this_cpu_it_says_what_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    (flags, *_) = (set(line.split(":")[1].split()) for line in lines if line.startswith("flags"))
    able = bool(flags & CPUINFO[precision])
    assert (unsupported(Variant.parse(precision), CPU) is None) == able


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets a level of x86")
def test_a_limit_holds_for_the_processes_that_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    request = {"workload": "unet.workload:COLORIZATION", "task": COLORIZATION.task, "device": "cpu"}
    with Runner(COLORIZATION.task, timeout_s=LIMIT_S) as runner:
        answer = runner.ask("bench.worker:unsupported", {**request, "variants": ["fp32", "bf16"]})
    assert answer == {"reasons": {"bf16": lacking(Precision.BF16, CPU)}}


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("tf32", "TF32 is a number format of NVIDIA's tensor cores, which a CPU has not"),
        ("fp32+cudnn-benchmark", "cuDNN works on NVIDIA GPUs only"),
        (
            "fp32+reduce-overhead",
            "reduce-overhead runs the network as CUDA graphs, which a CPU has not",
        ),
    ],
)
def test_a_cpu_has_nothing_of_nvidias(variant: str, reason: str) -> None:
    assert unsupported(Variant.parse(variant), CPU) == reason


@pytest.mark.parametrize("mode", [Compile.DEFAULT, Compile.MAX_AUTOTUNE])
def test_compiling_for_a_cpu_needs_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: Compile
) -> None:
    variant = Variant(compile=mode)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    reason = "torch.compile needs a C++ compiler on a CPU, and there is no {!r} (CXX): install g++"
    assert unsupported(variant, CPU) == reason.format("g++")
    assert unsupported(Variant(), CPU) is None

    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    assert unsupported(variant, CPU) is None
    monkeypatch.setenv("CXX", "")
    assert unsupported(variant, CPU) is None
    monkeypatch.setenv("CXX", "clang++-99")
    assert unsupported(variant, CPU) == reason.format("clang++-99")
    monkeypatch.setenv("CXX", str(compiler))
    assert unsupported(variant, CPU) is None


@pytest.mark.parametrize("switch", ["TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"])
def test_compiling_may_be_switched_off(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(switch, "1")
    reason = f"torch.compile is switched off by {switch}=1"
    assert unsupported(Variant(compile=Compile.DEFAULT), CPU) == reason
    assert unsupported(Variant(), CPU) is None
    monkeypatch.setenv(switch, "0")
    assert unsupported(Variant(compile=Compile.DEFAULT), CPU) is None


@pytest.mark.parametrize("kind", [kind for kind in ActivationBudget if kind != "keep-all"])
def test_there_is_nothing_to_keep_less_of_without_the_compiler(kind: ActivationBudget) -> None:
    reason = f"{kind.value} acts on what torch.compile makes, not on eager"
    for device in (CPU, CUDA):
        assert unsupported(Variant(activation_budget=kind), device) == reason
    assert unsupported(Variant(compile=Compile.DEFAULT, activation_budget=kind), CPU) is None


# Cards.


def card(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], multiprocessors: int
) -> None:
    """A card as torch would describe it, with torch's own rules about it left in force."""
    major, minor = capability
    properties = SimpleNamespace(
        name=name, major=major, minor=minor, multi_processor_count=multiprocessors
    )
    # What torch._inductor.utils.is_big_gpu asks for on NVIDIA's cards.
    inductors = SimpleNamespace(
        type="cuda", major=major, minor=minor, multi_processor_count=multiprocessors
    )

    def bf16(*, including_emulation: bool) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", bf16)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(DeviceProperties, "create", lambda device: inductors)
    torch._inductor.utils.is_big_gpu.cache_clear()


@pytest.fixture(autouse=True)
def _forget_cards() -> None:
    torch._inductor.utils.is_big_gpu.cache_clear()


CARDS = {
    "Tesla V100": ((7, 0), 80),
    "Tesla T4": ((7, 5), 40),
    "A100": ((8, 0), 108),
    "RTX 3060 Ti": ((8, 6), 38),
    "RTX 4070": ((8, 9), 46),
}
REFUSED = {
    ("Tesla V100", "tf32"): "Tesla V100 has no TF32, which came with compute capability 8.0",
    ("Tesla V100", "bf16"): "Tesla V100 has no bf16 arithmetic, and would emulate it",
    ("Tesla T4", "tf32"): "Tesla T4 has no TF32, which came with compute capability 8.0",
    ("Tesla T4", "bf16"): "Tesla T4 has no bf16 arithmetic, and would emulate it",
}


@pytest.mark.parametrize(
    "variant",
    [
        "fp32",
        "tf32",
        "fp16",
        "bf16",
        "fp32+compile",
        "fp32+reduce-overhead",
        "fp32+max-autotune",
        "fp32+channels_last+fused+blocks+cudnn-benchmark",
    ],
)
@pytest.mark.parametrize("name", CARDS)
def test_a_card_refuses_what_it_lacks_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, name: str, variant: str
) -> None:
    card(monkeypatch, name, *CARDS[name])
    assert unsupported(Variant.parse(variant), CUDA) == REFUSED.get((name, variant))


@pytest.mark.parametrize(("name", "reduced"), [("Tesla T4", "fp16"), ("A100", "bf16")])
def test_the_best_reduced_precision_of_a_card(
    monkeypatch: pytest.MonkeyPatch, name: str, reduced: str
) -> None:
    card(monkeypatch, name, *CARDS[name])
    assert fastest(CUDA) == reduced


@pytest.mark.parametrize("name", CARDS)
def test_a_card_with_few_multiprocessors_tunes_less_and_the_row_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    card(monkeypatch, name, *CARDS[name])
    told = caveats(Variant.parse("bf16+max-autotune"), CUDA)
    assert len(told) == (CARDS[name][1] < 68)
    assert all(name in sentence and "max-autotune GEMM is off" in sentence for sentence in told)
    assert caveats(Variant.parse("bf16+compile"), CUDA) == []
    assert caveats(Variant.parse("fp32+max-autotune"), CPU) == []


@pytest.mark.parametrize(
    ("variant", "what"), [("bf16+compile", "torch.compile"), ("fp32+fused-lab", "fused-lab")]
)
def test_triton_needs_a_c_compiler_and_python_s_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str, what: str
) -> None:
    card(monkeypatch, "RTX 4070", *CARDS["RTX 4070"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    wanted = Variant.parse(variant)
    reason = f"{what} needs a C compiler for Triton, and there is no {{}}: install gcc"
    assert unsupported(wanted, CUDA) == reason.format("gcc or clang")
    assert unsupported(Variant.parse("bf16+channels_last"), CUDA) is None

    (tmp_path / "clang").touch(mode=0o755)
    assert unsupported(wanted, CUDA) is None
    monkeypatch.setenv("CC", "cc-99")  # which Triton takes without a look
    assert unsupported(wanted, CUDA) == reason.format("cc-99")
    monkeypatch.setenv("CC", "clang")
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    assert unsupported(wanted, CUDA) == (
        f"{what} needs Python's headers, and there is no {tmp_path}/Python.h: install python3-dev"
    )
    (tmp_path / "Python.h").touch()
    assert unsupported(wanted, CUDA) is None


def test_what_inductor_compiles_for_a_cpu_needs_python_s_headers_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    reason = unsupported(Variant(compile=Compile.DEFAULT), CPU)
    assert reason is not None
    assert reason.endswith(": install python3-dev")
    assert unsupported(Variant.parse("fp32+fused-lab"), CPU) is None  # called without Python


@pytest.mark.parametrize("variant", ["fp32+compile", "fp32+fused-lab"])
def test_a_card_older_than_triton_s_oldest_is_refused_its_kernels(
    monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    card(monkeypatch, "GTX 1080", (6, 1), 20)
    assert unsupported(Variant.parse(variant), CUDA) == (
        "GTX 1080 is too old for Triton, which needs compute capability 7.0"
    )


@pytest.mark.gpu
def test_a_card_from_ampere_on_can_do_every_precision() -> None:
    able = torch.cuda.get_device_capability() >= (8, 0)
    for precision in (Precision.TF32, Precision.BF16):
        assert (unsupported(Variant(precision), CUDA) is None) == able
    for variant in (Variant(), Variant(Precision.FP16), Variant(cudnn_benchmark=CudnnBenchmark.ON)):
        assert unsupported(variant, CUDA) is None
