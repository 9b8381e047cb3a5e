"""What the machine is: run as a program, since it needs torch and a driver that may hang."""

import json
import sys
from typing import Any

from bench.doctor import examine
from bench.environment import describe_device, describe_host, package_version
from bench.errors import UserError
from bench.nvml import nvml_describe

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "pandas",
    "rich",
    "psutil",
    "nvidia-ml-py",
    "pillow",
    "pytest",
)


def describe(device: str, command: list[str]) -> dict[str, Any]:
    """A `machine` line of the record.

    Raises:
        UserError: The device is not there.
    """
    environment = describe_host(command) | describe_device(device)
    free_bytes, uuid = environment.pop("free_bytes"), environment["gpu_uuid"]
    card = nvml_describe(uuid) if uuid else None
    findings = examine(
        environment["device"], environment["note"], free_bytes, environment["threads"], card
    )
    return {
        "environment": environment,
        "card": card,
        "doctor": {finding.name: finding.line for finding in findings},
        "packages": {name: package_version(name) for name in PACKAGES},
        "free_bytes": free_bytes,
    }


def main() -> None:
    """Prints a `machine` line, or why there is none."""
    device, *command = sys.argv[1:]
    try:
        sys.stdout.write(json.dumps(describe(device, command)) + "\n")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
