"""What deploy/ has agrees with the server: options, limits, ports, times. Programs check their own files."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from outpace.cli.app import app
from outpace.server.app import MOST_BYTES
from outpace.server.run import GRACE_S
from outpace.server.serving import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "outpace.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
NGINX = (DEPLOY / "nginx.conf").read_text()
COMPOSE: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNITS = {"": 1, "s": 1, "m": 1 << 20}


def settings(unit: str) -> dict[str, list[str]]:
    """Name of a setting -> its values; long lines are put together, comments left out."""
    found: dict[str, list[str]] = {}
    for line in unit.replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value.strip())
    return found


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what stands behind them."""
    whole = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in whole.splitlines() if line]


def directives(conf: str) -> dict[str, list[str]]:
    """Name of a directive of nginx -> its values, wherever they are. Raises a ValueError for open blocks."""
    found: dict[str, list[str]] = {}
    depth = 0
    for text, end in re.findall(r"\s*([^;{}]*?)\s*([;{}])", re.sub(r"#.*", "", conf)):
        depth += {"{": 1, "}": -1, ";": 0}[end]
        if depth < 0 or (end == "}" and text) or "\n" in text:
            raise ValueError(f"a block or a line is not closed at {text!r}")
        if text:
            name, _, value = text.partition(" ")
            found.setdefault(name, []).append(" ".join(value.split()))
    if depth:
        raise ValueError("a block is not closed")
    return found


def amount(text: str) -> int:
    """Seconds, or bytes."""
    number, unit = re.fullmatch(r"(\d+)([a-z]?)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def listening(options: list[str]) -> dict[str, Any]:
    """What `outpace serve` makes of its options. Raises for one that it does not have."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("outpace", [], resilient_parsing=True)
    serve = command.get_command(context, "serve")
    values: dict[str, Any] = serve.make_context("serve", list(options), parent=context).params
    return values


def entry() -> list[str]:
    """The options of the image's command, without those that CMD gives."""
    found = dict(instructions(DOCKERFILE))
    command: list[str] = yaml.safe_load(found["ENTRYPOINT"])
    assert command[:2] == ["outpace", "serve"]
    return command[2:]


def test_the_unit_starts_the_server() -> None:
    found = settings(UNIT)
    [command] = found["ExecStart"]
    program, verb, *options = shlex.split(command)
    assert (Path(program).name, verb) == ("outpace", "serve")
    values = listening(options)
    [credential] = found["LoadCredential"]
    name = credential.partition(":")[0]
    assert str(values["api_key_file"]) == f"${{CREDENTIALS_DIRECTORY}}/{name}"
    assert f"OUTPACE_CACHE=%S/{found['StateDirectory'][0]}" in found["Environment"]


def test_the_unit_waits_for_answers_and_is_closed_in() -> None:
    found = settings(UNIT)
    assert amount(found["TimeoutStopSec"][0]) > GRACE_S
    wanted = {"Restart": "on-failure", "DynamicUser": "yes", "ProtectSystem": "strict", "ProtectHome": "yes"}
    assert {name: found[name][0] for name in wanted} == wanted


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "outpace.service"
    # It looks for the program, too.
    unit.write_text(UNIT.replace("/opt/outpace/bin/outpace", sys.executable))

    def analyze(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", *options, str(unit)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    verified = analyze("verify")
    assert (verified.returncode, verified.stderr) == (0, "")
    exposed = analyze("security", "--offline=yes", "--threshold=20")
    assert exposed.returncode == 0, exposed.stdout
    unit.write_text(unit.read_text().replace("ProtectSystem", "ProtectSistem"))
    assert "ProtectSistem" in analyze("verify").stderr


def test_the_image_has_what_its_build_needs() -> None:
    lines = instructions(DOCKERFILE)
    assert [name for name, _ in lines].count("FROM") == 2
    copied = {word for name, value in lines if name == "COPY" for word in value.split()[:-1]}
    assert copied == {*copied} & {path.name for path in ROOT.iterdir()}, "copied and not there"
    project = (ROOT / "pyproject.toml").read_text()
    needed = {"CMakeLists.txt", "pyproject.toml", "native", "src", "LICENSE", "README.md"}
    assert needed <= copied and 'readme = "README.md"' in project
    [extras] = re.findall(r"\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert "server" in extras.split(",")
    assert all(re.search(rf"^{extra} = ", project, re.MULTILINE) for extra in extras.split(","))


def test_the_image_serves() -> None:
    found = dict(instructions(DOCKERFILE))
    values = listening([*entry(), *yaml.safe_load(found["CMD"])])
    assert values["host"] == "0.0.0.0" and values["port"] == int(found["EXPOSE"])
    assert f"http://127.0.0.1:{found['EXPOSE']}/health" in found["HEALTHCHECK"]
    assert found["ENV"] == f"OUTPACE_CACHE={found['VOLUME']}"
    assert found["USER"] not in ("root", "0")
    order = [name for name, _ in instructions(DOCKERFILE)]
    assert order.index("USER") < order.index("ENTRYPOINT")


def test_the_health_check_of_the_image_is_a_program(tmp_path: Path) -> None:
    [command] = re.findall(r"CMD (\[.*\])", dict(instructions(DOCKERFILE))["HEALTHCHECK"])
    _, *options = yaml.safe_load(command)
    # Nothing listens at this port, so that it has to fail, and by that.
    closed = [option.replace(":8080/", ":9/") for option in options]
    run = subprocess.run([sys.executable, *closed], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1 and "URLError" in run.stderr and "SyntaxError" not in run.stderr


def test_compose_builds_the_image_and_gives_it_what_it_needs() -> None:
    one = COMPOSE["services"]["outpace"]
    built = (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).resolve()
    assert built == DEPLOY / "Dockerfile"
    values = listening([*entry(), *one["command"]])
    [secret] = one["secrets"]
    assert str(values["api_key_file"]) == f"/run/secrets/{secret}" and secret in COMPOSE["secrets"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"/deploy/{Path(COMPOSE['secrets'][secret]['file']).name}" in ignored, "keys would be committed"
    [volume] = one["volumes"]
    name, _, place = volume.partition(":")
    assert name in COMPOSE["volumes"] and place == dict(instructions(DOCKERFILE))["VOLUME"]
    assert amount(one["stop_grace_period"]) > GRACE_S
    assert one["ports"] == [f"127.0.0.1:8080:{values['port']}"]


def test_compose_puts_nginx_before_it() -> None:
    one = COMPOSE["services"]["nginx"]
    assert one["depends_on"] == {"outpace": {"condition": "service_healthy"}} and one["profiles"]
    [volume] = one["volumes"]
    assert (DEPLOY / volume.partition(":")[0]).resolve() == DEPLOY / "nginx.conf"
    [listen] = directives(NGINX)["listen"]
    assert [port.partition(":")[2] for port in one["ports"]] == [listen]


@pytest.mark.skipif(
    subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0
    if shutil.which("docker")
    else True,
    reason="needs docker compose",
)
def test_docker_compose_takes_it() -> None:
    command = ["docker", "compose", "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr


def test_nginx_passes_on_what_the_server_takes() -> None:
    found = directives(NGINX)
    assert [amount(value) for value in found["client_max_body_size"]] == [MOST_BYTES]
    assert found["proxy_buffering"] == ["off"], "tokens would wait for each other"
    [silence] = found["proxy_read_timeout"]
    assert amount(silence) > Settings().timeout
    [upstream] = found["upstream"]
    assert found["proxy_pass"] == [f"http://{upstream}"]
    port = dict(instructions(DOCKERFILE))["EXPOSE"]
    servers = [value for value in found["server"] if value]
    assert servers == [f"{name}:{port}" for name in COMPOSE["services"] if name != "nginx"]
    [hashed] = found["hash"]
    assert hashed.endswith(" consistent")
    defined = {value.split()[-1] for value in found["map"]}
    assert hashed.split()[0] in defined


@pytest.mark.parametrize("spoilt", [NGINX + "}", NGINX.rstrip()[:-1], NGINX.replace("630s;", "630s")])
def test_what_is_not_closed_is_seen(spoilt: str) -> None:
    with pytest.raises(ValueError, match="closed"):
        directives(spoilt)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_it(tmp_path: Path) -> None:
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"pid {tmp_path}/pid;\n" + NGINX.replace("outpace:8080", "127.0.0.1:8080"))
    run = subprocess.run(["nginx", "-t", "-c", str(conf)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
