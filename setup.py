"""Maps the folders at the root to the packages licet.*; everything else is said in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("ledger", "policies", "train", "runtime")

setup(
    packages=[
        f"licet.{package}"
        for package in find_packages(include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")])
    ],
    package_dir={f"licet.{name}": name for name in FOLDERS},
)
