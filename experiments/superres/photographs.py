"""The photographs, chosen by eye from what Debian packages: no paintings, renderings, logos or patterns.

Licences are those of the packages' copyright files or the pictures' own metadata; `prepare` keeps both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True, slots=True)
class Photograph:
    """A file of a package. A photograph belongs to one split whole. Names are unique."""

    name: str
    package: str
    file: str
    licence: str
    split: Split


_GROUPS: list[tuple[str, str, str, list[str]]] = [
    (
        "plasma-workspace-wallpapers", "usr/share/wallpapers/{}/contents/images/2560x1600.jpg", "LGPL-3",
        ["BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey",
         "Kite", "OneStandsOut", "Path", "summer_1am"],
    ),
    (
        "lomiri-wallpapers-16.04", "usr/share/backgrounds/{}.jpg", "CC-BY-4.0",
        ["Picture_0B_by_freespace", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede",
         "aitzgorri_by_Aitzol_Berasategi", "friends_by_Aitzol_Berasategi", "life_by_Aitzol_Berasategi",
         "picosdeeuropa_by_Aitzol_Berasategi", "sunset_by_Aitzol_Berasategi"],
    ),
    (
        "lomiri-wallpapers-16.04", "usr/share/backgrounds/{}.jpg", "CC-BY-SA-4.0",
        ["Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "free_by_Peter_Nerlich",
         "greentock_by_Peter_Nerlich"],
    ),
    (
        "lomiri-wallpapers-16.04", "usr/share/backgrounds/{}.jpg", "CC0-1.0",
        ["seeding_by_Clements_Engelhardt"],
    ),
    ("lomiri-wallpapers-20.04", "usr/share/backgrounds/{}.jpg", "CC-BY-SA-3.0", ["Kleiber_by_Lukas_Baubkus"]),
    (
        "lxqt-themes", "usr/share/lxqt/wallpapers/{}.png", "LGPL-2.1+",
        ["Valendas", "appleflower", "beam", "butterfly", "cloud", "drop", "flowers"],
    ),
    (
        "lxqt-themes", "usr/share/lxqt/wallpapers/{}.jpg", "LGPL-2.1+",
        ["Butterfly-Kenneth-Wimer", "after-the-rain", "fog", "this-is-not-windows"],
    ),
    (
        "mate-backgrounds", "usr/share/backgrounds/mate/nature/{}.jpg", "GPL-2+",
        ["Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm",
         "TwoWings", "Wood", "YellowFlower"],
    ),
    (
        "palapeli-data", "usr/share/palapeli/collection/{}.jpg", "GPL-2+",
        ["castle-maintenon", "cincinnati-bridge", "citrus-fruits", "european-honey-bee",
         "panther-chameleon-female"],
    ),
    (
        "python3-skimage", "usr/lib/python3/dist-packages/skimage/data/{}.png", "BSD-3-Clause",
        ["astronaut", "camera", "chelsea", "coffee", "coins", "moon", "motorcycle_left"],
    ),
    ("python3-skimage", "usr/lib/python3/dist-packages/skimage/data/{}.jpg", "BSD-3-Clause", ["rocket"]),
    (
        "python3-sklearn", "usr/lib/python3/dist-packages/sklearn/datasets/images/{}.jpg", "CC-BY-2.0",
        ["china", "flower"],
    ),
]  # fmt: skip

_HELD_OUT: dict[str, Split] = {
    **dict.fromkeys(["cincinnati-bridge", "Dragonfly_by_Bolly", "TwoWings", "ColorfulCups", "rocket"], "dev"),
    **dict.fromkeys(
        ["china", "coffee", "castle-maintenon", "FallenLeaf", "LadyBird", "chelsea", "Valendas",
         "picosdeeuropa_by_Aitzol_Berasategi", "Kleiber_by_Lukas_Baubkus"], "test",
    ),
}  # fmt: skip

PHOTOGRAPHS = [
    Photograph(name, package, pattern.format(name), licence, _HELD_OUT.get(name, "train"))
    for package, pattern, licence, names in _GROUPS
    for name in names
]
