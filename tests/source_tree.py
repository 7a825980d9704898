"""Where the project's modules lie."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("dali_pipelines", "trt", "engine", "benchmarks")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))
