"""The installed package has every module, and the recipes inside it."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_folder_of_the_package_is_installed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "cifar_jax").rglob("*.py")}
    packages = settings["options"]["packages"].split()
    assert sorted(packages) == sorted([*(".".join(folder.parts) for folder in folders), "cifar_jax.configs"])
    assert settings["options"]["package_dir"].split() == ["cifar_jax.configs", "=", "configs"]
    assert {path.parent.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.py")} == {
        ".",
        *(pattern.split("/")[0] for pattern in settings["options.package_data"]["cifar_jax.configs"].split()),
    }
