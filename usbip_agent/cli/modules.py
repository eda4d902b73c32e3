"""The kernel module without which a daemon can do nothing: is it loaded, and if not, what helps."""

from __future__ import annotations

import os
from pathlib import Path

from usbip_agent.errors import ModuleFault
from usbip_agent.names import AGENT, Service

MODULES = Path("/lib/modules")


def module_fault(service: Service) -> ModuleFault | None:
    """None when the module of *service* is loaded, else the fault with its cure."""
    if _is_loaded(service):
        return None
    return ModuleFault(f"the kernel module {service.module} is not loaded", hint=cure(service.module))


def cure(module: str, modules: Path = MODULES) -> str:
    """What an administrator has to do to get *module* into the running kernel."""
    release = os.uname().release
    directory = modules / release
    if not (directory / "modules.dep").exists():
        return f"the running kernel ({release}) has no modules installed; reboot into the installed kernel"
    if _has(directory, module):
        return f"modprobe {module}"
    return (f"the running kernel ({release}) has none; "
            f"install linux-image-{_architecture()} and reboot into it")


def _is_loaded(service: Service) -> bool:
    if service is AGENT:
        from usbip_agent.kernel.stub import Stub
        return Stub().is_loaded()
    from usbip_agent.kernel.vhci import Vhci
    return Vhci().is_loaded


def _has(directory: Path, module: str) -> bool:
    """depmod's list of what modprobe finds. A file name has - where modprobe takes _ as well."""
    known = (directory / "modules.dep").read_text("utf-8", "replace").replace("_", "-")
    return f"/{module}.ko" in known


def _architecture() -> str:
    """Debian's word for this machine's architecture, as far as its kernel packages are concerned."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armmp", "i686": "686"}.get(machine, machine)
