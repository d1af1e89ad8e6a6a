"""What this process may use of its machine: processors and their quota, and memory."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = Path("/")
# Of the second and the first version of control groups.
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_KIND = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")


def physical_cores(root: Path = _SYSTEM) -> int:
    """Physical cores that this process may run on: hyper-threads share the units that our kernels fill."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in usable:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            cores.add(("", str(cpu)))
    return len(cores)


def default_threads(root: Path = _SYSTEM) -> int:
    """As many as physical cores, or as the quota of the control group has processors; at least one."""
    return max(1, round(min(physical_cores(root), processor_quota(root))))


def processor_quota(root: Path = _SYSTEM) -> float:
    """Processors that the control groups of this process may keep busy with all they hold; inf: all."""
    quota = float("inf")
    for folder in _control_groups(root, "cpu"):
        try:
            if (folder / "cpu.max").exists():
                most, period = (folder / "cpu.max").read_text().split()
            else:
                most, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if most != "max" and float(most) > 0 and float(period) > 0:
                quota = min(quota, float(most) / float(period))
        except (OSError, ValueError):
            continue
    return quota


def available_bytes(root: Path = _SYSTEM) -> int:
    """Memory that this process can have while others keep theirs; 0 where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        available = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError, IndexError):
        return 0
    for folder in _control_groups(root, "memory"):
        for most, used in _MEMORY_FILES:
            try:
                room = int((folder / most).read_text()) - int((folder / used).read_text())
                available = min(available, max(0, room))
            except (OSError, ValueError):  # ValueError: "max"
                continue
    return available


def grants_huge_pages(root: Path = _SYSTEM) -> bool:
    """Whether the system gives memory in huge pages to who asks for it."""
    try:
        return "[never]" not in (root / "sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False


def processor_key(root: Path = _SYSTEM) -> str:
    """Names the kind of processor, in 8 hexadecimal digits, for what was measured on it."""
    fields = {"machine": platform.machine(), "processor": platform.processor()}
    try:
        for line in (root / "proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            if name.strip() in _KIND:
                fields[name.strip()] = value.strip()
    except OSError:
        pass
    return hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:8]


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, from its own to the outermost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / controllers if controllers else root / "sys/fs/cgroup"
        if controllers and not base.exists():
            base = root / "sys/fs/cgroup" / controller
        folder = base / path.strip("/")
        while True:
            yield folder
            if folder == base:
                break
            folder = folder.parent
