"""The files in deploy/, each checked by the program that reads it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
import yaml

from app.settings import Settings
from app.web.open_files import needed_files
from tests.cli.test_serve import answers
from tests.deploy.site import DEPLOY, procfile
from tests.processes import ROOT, free_ports, running, wait_until

NOBODY = 65534
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = DEPLOY / "mqtt-token-server@.service"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, need_program: Callable[[str], str]) -> Path:
    """The files that ``deploy/prepare`` generates."""
    need_program("openssl")
    folder = tmp_path_factory.mktemp("prepared") / "private"
    subprocess.run([DEPLOY / "prepare", folder], check=True)
    return folder


@pytest.fixture
def sent() -> Iterator[Path]:
    """A folder with what .dockerignore lets through in ``source``, all of it an unprivileged user's."""
    patterns = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    with tempfile.TemporaryDirectory() as folder:
        for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
            copy = Path(folder, "source") / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy(path, copy)
        if os.getuid() == 0:
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
        yield Path(folder)


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    """The linter of Dockerfiles finds nothing."""
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_haproxy_takes_its_files(private: Path, need_program: Callable[[str], str]) -> None:
    """``haproxy -c`` passes without a warning, with only the certificate's path in the environment."""
    files = ["-f", str(DEPLOY / "haproxy.cfg"), "-f", str(DEPLOY / "haproxy-sandbox.cfg")]
    environment = {"CERTIFICATE": str(private / "server.pem")}
    run = subprocess.run(
        [need_program("haproxy"), "-c", *files], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    # The compose file's service names do not resolve here; there must be no other warning.
    remarks = [line for line in run.stderr.splitlines() if "[WARNING]" in line and "could not resolve" not in line]
    assert remarks == []


def test_the_line_for_the_office_keeps_all_others_from_the_console(
    tmp_path: Path, need_program: Callable[[str], str]
) -> None:
    """The rule matches every spelling of the path: an instance serves ``/%61dmin/`` as ``/admin/``."""
    [line] = [line for line in (DEPLOY / "haproxy.cfg").read_text().splitlines() if "# http-request deny" in line]
    [port] = free_ports()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n mode http\n timeout client 5s\n"
        f"frontend devices\n bind 127.0.0.1:{port}\n {line.strip(' #')}\n http-request return status 200\n"
    )

    def status(path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status

    def listens() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return status("/") == 200
        return False

    with running([need_program("haproxy"), "-db", "-f", str(config)], stderr=subprocess.DEVNULL):
        wait_until(listens, "haproxy")
        for path in ("/admin", "/admin/", "/%61dmin/", "/adm%69n/tokens", "http://tokens.example/%61dmin/"):
            assert status(path) == 403, path
        assert status("/oauth/token") == 200


def test_debians_redis_takes_its_file(tmp_path: Path, need_program: Callable[[str], str]) -> None:
    """Redis 7.0 runs with the file and has the durability that the page promises."""
    [port] = free_ports()
    command = [need_program("redis-server"), str(DEPLOY / "redis.conf"), "--port", str(port), "--dir", str(tmp_path)]
    said: dict[str, str] = {}
    with running(command, stdout=subprocess.DEVNULL), redis.Redis(port=port, decode_responses=True) as client:

        def told() -> bool:
            try:
                said.update(client.config_get("append*", "maxmemory-policy", "save"))
            except redis.ConnectionError:
                return False
            return True

        wait_until(told, "Redis")
    assert said["appendonly"] == "yes"
    assert said["appendfsync"] == "always"
    assert said["maxmemory-policy"] == "noeviction"
    assert said["save"] == ""


def test_systemd_takes_the_unit(tmp_path: Path, need_program: Callable[[str], str]) -> None:
    """``systemd-analyze verify`` finds nothing, and rates the exposure at 2.0 of 10 at most."""
    analyze = need_program("systemd-analyze")
    unit = tmp_path / UNIT.name.replace("@", "@8081")
    unit.write_text(UNIT.read_text().replace("/opt/mqtt-token-server/bin/gunicorn", sys.executable))
    verified = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    rated = subprocess.run(
        [analyze, "--offline=true", "--threshold=20", "security", unit], capture_output=True, text=True, check=False
    )
    assert rated.returncode == 0, rated.stdout + rated.stderr


def test_the_limits_of_open_files_fit_the_connections() -> None:
    """Unit and compose file allow an instance and haproxy what they need, and the documents name these numbers."""
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    nofile = {name: service.get("ulimits", {}).get("nofile") for name, service in compose["services"].items()}
    [of_unit] = re.findall(r"^LimitNOFILE=(\d+)$", UNIT.read_text(), re.MULTILINE)
    default = {name: Settings.model_fields[name].default for name in ("max_connections", "egress_qps")}
    needed = needed_files(cast("Settings", SimpleNamespace(**default)))
    assert needed <= nofile["instance1"] == int(of_unit)

    main, sandbox = ((DEPLOY / name).read_text() for name in ("haproxy.cfg", "haproxy-sandbox.cfg"))
    total, *frontends = (int(number) for number in re.findall(r"^    maxconn (\d+)$", main + sandbox, re.MULTILINE))
    assert len(frontends) == len(re.findall(r"^frontend ", main + sandbox, re.MULTILINE))
    assert sum(frontends) < total
    files = 2 * total + 100
    assert files <= nofile["haproxy"]
    page = (DEPLOY / "README.md").read_text()
    assert f"must be at least {files:,}" in main
    assert f"at least {files:,} for haproxy" in page
    assert f"{needed:,} for an instance" in page


def test_one_command_runs_an_instance_everywhere() -> None:
    """Procfile, image and unit run the same gunicorn command; only the unit takes the port from its name."""
    program, *arguments = procfile()[2:]
    assert json.loads(DOCKERFILE.splitlines()[-1].removeprefix("CMD ")) == [program, *arguments]
    [line] = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    path, *others = shlex.split(line.removeprefix("ExecStart="))
    assert Path(path).name == program
    bind = others.index("--bind")
    assert others[bind + 1] == "127.0.0.1:%i"
    assert others[:bind] + others[bind + 2 :] == arguments


def test_the_compose_file_holds_together(private: Path) -> None:
    """Three equal instances with complete settings, every file exists, and every service restarts."""
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    instances = [services[f"instance{number}"] for number in (1, 2, 3)]
    assert instances[0] == instances[1] == instances[2]
    for file in (*compose["configs"].values(), *compose["secrets"].values()):
        path = Path(file["file"])
        assert (private / path.name if path.parts[0] == "private" else DEPLOY / path).exists(), path
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        assert {each if isinstance(each, str) else each["source"] for each in service.get("configs", ())} <= set(
            compose["configs"]
        )
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service["networks"]) <= set(compose["networks"])
    inside = {name: value.replace("/run/secrets", str(private)) for name, value in instances[0]["environment"].items()}
    settings = Settings.load(inside)
    # All instances share the account's quotas, so none has a share of its own.
    defaults = {name: field.default for name, field in Settings.model_fields.items() if name.endswith("_qps")}
    assert {name: getattr(settings, name) for name in defaults} == defaults


def test_a_wrong_setting_ends_gunicorn_with_one_line() -> None:
    """If a setting is missing, gunicorn exits instead of restarting workers, and systemd does not restart it."""
    environment = {"PATH": os.environ["PATH"], "PORT": str(free_ports()[0])}
    run = subprocess.run(procfile(), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert f"\nRestartPreventExitStatus={run.returncode}\n" in UNIT.read_text()
    assert run.stderr.splitlines()[0].startswith("error: ISSUER_URL is not set: ")
    assert "Traceback" not in run.stderr


@pytest.mark.timeout(180)
@pytest.mark.skipif(os.environ.get("REQUIRE_OPTIONAL") != "1", reason="installs every package once more")
def test_what_the_image_holds_is_built_and_serves_without_privileges(
    sent: Path, private: Path, need_program: Callable[[str], str]
) -> None:
    """In an empty folder, as the user nobody, the Dockerfile's steps build an instance that becomes healthy."""
    source, folder = sent / "source", sent / "built"
    unprivileged: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    environment = {"PATH": os.environ["PATH"], "HOME": str(sent)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    built = subprocess.run(
        [source / "deploy/build", folder], env=environment, check=False, capture_output=True, text=True, **unprivileged
    )
    assert built.returncode == 0, built.stdout + built.stderr
    shutil.rmtree(source)

    [port] = free_ports()
    settings = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PORT": str(port),
        "ISSUER_URL": "https://localhost:8443",
        "REDIS_URL": "redis://127.0.0.1:1",
        "POLICY_FILE": str(folder / "app/embedded/policy.toml"),
        "SEALING_KEYS": (private / "sealing_keys").read_text(),
        "CLOUD_INSTANCE_ID": "post-cn-none",
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "none",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "none",
    }
    command = [str(folder / "bin" / procfile()[2]), *procfile()[3:]]
    [check] = [json.loads(line.strip().removeprefix("CMD ")) for line in DOCKERFILE.splitlines() if "  CMD " in line]
    # Not by `running`: the user nobody may not have access to the tests' Python.
    with subprocess.Popen(command, cwd=folder, env=settings, start_new_session=True, **unprivileged) as instance:
        try:
            address = f"http://127.0.0.1:{port}/healthz"
            wait_until(lambda: instance.poll() is not None or answers(address), "the instance")
            assert instance.poll() is None
            healthy = subprocess.run([folder / "bin" / check[0], *check[1:]], env=settings, check=False, **unprivileged)
            assert healthy.returncode == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(instance.pid, signal.SIGKILL)
    assert subprocess.run([folder / "bin/python", "-m", "pip"], capture_output=True, check=False).returncode != 0
