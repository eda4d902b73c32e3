"""The packages as an administrator gets them: apt install on a bare Debian 12 and 13."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from stat import S_IMODE

import pytest

from tests.package.bare import BareSystem
from tests.package.conftest import install
from usbip_agent import __version__
from usbip_agent.errors import ExitStatus
from usbip_agent.names import AGENT, USBIPA, Service

SERVICES = pytest.mark.parametrize("service", [AGENT, USBIPA], ids=["usbip-agent", "usbipa"])
UNITS = "/etc/systemd/system/multi-user.target.wants"


@SERVICES
def test_command_says_its_version_and_what_it_can(installed: BareSystem, service: Service) -> None:
    assert installed.checked(service.command, "--version") == f"{service.command} {__version__}\n"
    assert "status" in installed.checked(service.command, "--help")


@SERVICES
def test_shipped_configuration_is_valid(installed: BareSystem, service: Service) -> None:
    installed.checked(service.command, "check")


@SERVICES
def test_without_a_daemon_status_is_one_line_and_exit_69(installed: BareSystem, service: Service) -> None:
    done = installed.run(service.command, "status")
    assert done.returncode == ExitStatus.UNAVAILABLE
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_configuration_of_the_agent_is_for_root_only(installed: BareSystem) -> None:
    for path, mode in ((AGENT.configuration, 0o600), (AGENT.drop_ins, 0o700)):
        found = installed.path(str(path)).stat()
        assert (S_IMODE(found.st_mode), found.st_uid) == (mode, 0), path


def test_usbipa_has_a_user_who_reads_its_configuration_and_changes_nothing(installed: BareSystem) -> None:
    user, group = installed.checked("id", "-u", "usbipa"), int(installed.checked("id", "-g", "usbipa"))
    assert 0 < int(user) < 1000
    assert installed.checked("id", "-Gn", "usbipa") == "usbipa\n"
    assert installed.checked("getent", "passwd", "usbipa").endswith("/nologin\n")
    for path, mode in ((USBIPA.configuration, 0o640), (USBIPA.drop_ins, 0o750),
                       (USBIPA.configuration.parent, 0o750)):
        found = installed.path(str(path)).stat()
        assert (S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, 0, group), path
    installed.checked("runuser", "-u", "usbipa", "--", "usbipa", "check")


def test_modes_that_the_administrator_has_set_are_kept(bare: BareSystem, debs: list[Path]) -> None:
    changed = str(USBIPA.drop_ins)
    bare.checked("dpkg-statoverride", "--add", "root", "root", "0700", changed)
    install(bare, debs)
    found = bare.path(changed).stat()
    assert (S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o700, 0, 0)
    names = [f"/root/debs/{deb.name}" for deb in debs]
    bare.checked("apt-get", "-q", "-y", "--no-install-recommends", "--reinstall", "install", *names)
    assert S_IMODE(bare.path(changed).stat().st_mode) == 0o700


def test_openssl_takes_the_configuration_of_the_daemons(installed: BareSystem) -> None:
    """With it ChaCha20 comes first; without it, as for commands, all is as OpenSSL has it."""
    first = "import ssl; print(ssl.create_default_context().get_ciphers()[0]['name'])"
    path = "/usr/share/usbip-agent/openssl.cnf"
    for unit in (AGENT.unit, USBIPA.unit):
        shown = installed.path(f"/lib/systemd/system/{unit}").read_text()
        assert f"\nEnvironment=OPENSSL_CONF={path}\n" in shown
    said = installed.checked("env", f"OPENSSL_CONF={path}", "/usr/bin/python3", "-c", first)
    assert said == "TLS_CHACHA20_POLY1305_SHA256\n"
    assert installed.checked("/usr/bin/python3", "-c", first) != said


@SERVICES
def test_unit_is_enabled(installed: BareSystem, service: Service) -> None:
    assert installed.path(f"{UNITS}/{service.unit}").is_symlink()


@SERVICES
def test_unit_is_valid_where_it_is_installed(installed: BareSystem, service: Service) -> None:
    said = installed.run("systemd-analyze", "verify", "--man=no", service.unit)
    assert service.unit not in said.stderr, said.stderr


@SERVICES
def test_dbus_files_belong_together(installed: BareSystem, service: Service) -> None:
    activation = installed.path(f"/usr/share/dbus-1/system-services/{service.bus_name}.service").read_text()
    assert f"Name={service.bus_name}" in activation
    assert f"SystemdService={service.unit}" in activation
    policy = installed.path(f"/usr/share/dbus-1/system.d/{service.bus_name}.conf").read_text()
    assert service.bus_name in policy
    assert installed.path(f"/usr/share/dbus-1/interfaces/{service.bus_name}.xml").exists()


@SERVICES
def test_module_is_loaded_at_boot(installed: BareSystem, service: Service) -> None:
    listed = installed.path(f"/usr/lib/modules-load.d/{service.command}.conf").read_text().splitlines()
    assert {service.module, "tls"} <= set(listed)


def test_udev_accepts_the_rules(installed: BareSystem, suite: str) -> None:
    if suite == "bookworm":
        pytest.skip("udevadm verify comes with Debian 13")
    for rules in ("60-usbip-agent.rules", "60-usbipa.rules"):
        installed.checked("udevadm", "verify", "--resolve-names=never", f"/usr/lib/udev/rules.d/{rules}")


def test_library_is_compiled_and_at_its_place(installed: BareSystem) -> None:
    said = json.loads(installed.checked(
        "/usr/bin/python3", "-I", "-c",
        "import json, usbip_agent; print(json.dumps([usbip_agent.__file__, usbip_agent.__cached__]))"))
    assert said[0] == "/usr/lib/python3/dist-packages/usbip_agent/__init__.py"
    assert installed.path(said[1]).exists()


def test_purge_leaves_nothing_behind(bare: BareSystem, debs: list[Path]) -> None:
    install(bare, debs)
    for service in (AGENT, USBIPA):
        for directory in (service.state_directory, service.runtime_directory):
            bare.path(str(directory)).mkdir(exist_ok=True)
            bare.path(f"{directory}/left").write_text("by the daemon")
    names = [deb.name.split("_")[0] for deb in debs]
    bare.checked("apt-get", "-q", "-y", "purge", *names)
    left = [line for line in bare.checked("find", "/", "-xdev", "-name", "*usbip*").splitlines()
            if not line.startswith(("/proc/", "/root/debs/", "/var/log/"))]
    assert not left


def test_removal_keeps_the_configuration(bare: BareSystem, debs: list[Path]) -> None:
    install(bare, debs)
    bare.path(str(AGENT.configuration)).write_text("version: 1\n")
    bare.checked("apt-get", "-q", "-y", "remove", "usbip-agent")
    assert bare.path(str(AGENT.configuration)).read_text() == "version: 1\n"
    assert not bare.path("/usr/bin/usbip-agent").exists()


def test_nothing_is_stopped_on_upgrade(debs: list[Path], tmp_path: Path) -> None:
    """Connected devices stay connected: the old daemon runs until the new one is restarted in its place."""
    for deb in debs[1:]:
        subprocess.run(["dpkg-deb", "--control", deb, tmp_path / deb.stem], check=True)
        before_removal = (tmp_path / deb.stem / "prerm").read_text()
        assert 'if [ -z "${DPKG_ROOT:-}" ] && [ "$1" = remove ]' in before_removal
        assert "_dh_action=restart" in (tmp_path / deb.stem / "postinst").read_text()
