"""How a model restores an image, written once: in the recipe, serving.json and Triton's configuration.

It imports neither torch nor numpy.
"""

import itertools
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from relume.errors import ConfigError
from relume.settings import Settings


class Window(Settings):
    """How an image is covered by tiles.

    The distance of neighbouring tiles is tile - 2 halo - overlap.

    Attributes:
        tile: Side of a tile in pixels.
        halo: Context in pixels at each side of a tile, thrown away where it has a neighbour.
        overlap: Pixels over which what is kept of neighbouring tiles is blended.
    """

    tile: int = Field(gt=0)
    halo: int = Field(ge=0)
    overlap: int = Field(ge=0)

    def __str__(self) -> str:
        return f"of {self.tile} pixels, halo {self.halo}, overlap {self.overlap}"

    @property
    def pitch(self) -> int:
        """Pixels from one tile to the next."""
        return self.tile - 2 * self.halo - self.overlap

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.pitch < 1:
            raise ValueError(
                f"nothing is left of a tile of {self.tile} within a halo of {self.halo} and an overlap of"
                f" {self.overlap}; twice the halo and the overlap have to be less than the tile together"
            )
        return self

    def within(self, height: int, width: int) -> Self:
        """The same with a tile no larger than an image, so that no tile is continued by mirroring.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.

        Returns:
            With a tile that is a multiple of 16, as all networks want it; without halo and overlap where that leaves no
            room for them. As it is where the image is smaller than 16.
        """
        side = min(height, width) // 16 * 16
        if not 0 < side < self.tile:
            return self
        room = side - 2 * self.halo - self.overlap > 0
        return self.model_copy(update={"tile": side} | ({} if room else {"halo": 0, "overlap": 0}))


class Tiling(Window):
    """How an image is covered by tiles, once or several times.

    Attributes:
        further_windows: In which the image is restored as well; the mean of all results is taken.
    """

    # Left out of what is written where there is none, as in all that was released before; so are the fields below.
    further_windows: tuple[Window, ...] = Field(default=(), exclude_if=lambda windows: not windows)

    def within(self, height: int, width: int) -> Self:
        """See `Window.within`; in all windows."""
        further = tuple(window.within(height, width) for window in self.further_windows)
        return super().within(height, width).model_copy(update={"further_windows": further})

    def _windows(self) -> tuple[Window, ...]:
        return self, *self.further_windows


class EdgeFusion(Settings):
    """What is made of the finished images of two base models: at edges that of one, elsewhere the mean of both.

    Attributes:
        smooth: The base model that smooths more.
        detail: The base model that keeps edges.
        mask: Which pixels are taken from `detail` alone, see `relume.models.fusion.edges`, whose Restormer is `smooth`
            and whose HAT is `detail`.
        thresholds: Gradient from which a pixel may continue an edge, and from which it starts one.
    """

    smooth: str
    detail: str
    mask: Literal["union", "restormer_only", "hat_only", "xor"] = "union"
    thresholds: tuple[int, int] = (100, 200)

    def __str__(self) -> str:
        return f"edges of {self.detail} over {self.smooth} ({self.mask}, {self.thresholds[0]}, {self.thresholds[1]})"

    @property
    def members(self) -> tuple[str, ...]:
        """Both in the order of their results in the graph, that of their names."""
        return tuple(sorted((self.smooth, self.detail)))


class Inference(Tiling):
    """How a model restores an image, wherever it does: measured, released and served.

    Attributes:
        weight: Of the blend: `linear` and `cosine` fade one tile into the other, `uniform` takes their mean.
        orientations: In which a tile is restored; their mean is taken. 8 are all flips and right angles, 4 the flips, 2
            the mirror image, 1 the tile as it is. The network runs as many times.
        fusion: Of the finished images of the base models that the final model is the mean of, in its place.
        estimator: Of an adjustable model, the base model that estimates the level of an image for which none is given.
        members: Of a final model that is the weighted average of base models, all of them by name, each with tiles of
            its own or, for null, in those of the plan. The average is that of their finished images.
        passes: Of a network with masks, each with others; the mean of the results is taken.
        scale: How much larger the network makes an image.
    """

    weight: Literal["linear", "cosine", "uniform"] = "linear"
    orientations: Literal[1, 2, 4, 8] = 1
    fusion: EdgeFusion | None = Field(default=None, exclude_if=lambda fusion: fusion is None)
    estimator: str | None = Field(default=None, exclude_if=lambda name: name is None)
    members: dict[str, Tiling | None] = Field(default={}, exclude_if=lambda members: not members)
    passes: int = Field(default=1, ge=1, le=64, exclude_if=lambda passes: passes == 1)
    scale: Literal[1, 2, 3, 4] = Field(default=1, exclude_if=lambda scale: scale == 1)

    def __str__(self) -> str:
        """For people, such as `tiles of 192 pixels, halo 16, overlap 8 (linear), 8 orientations`."""
        mean = f", {self.orientations} orientations" if self.orientations > 1 else ""
        mean += f", {self.passes} passes" if self.passes > 1 else ""
        scale = f", {self.scale} times as large" if self.scale > 1 else ""
        level = f", level estimated by {self.estimator}" if self.estimator else ""
        fusion = f", {self.fusion}" if self.fusion else ""
        own = "".join(f"; {part.name} {_shown(part.plan)}" for part in self.parts if part.name)
        return f"tiles {_shown(self)} ({self.weight}{own}){mean}{scale}{fusion}{level}"

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        own = [tiling is not None for tiling in self.members.values()]
        if self.members and (all(own) or not any(own)):
            raise ValueError(
                "members names all base models of a weighted average, one at least with tiles of its own, and one at"
                " least with null, which restores in those of the plan"
            )
        if self.members and self.fusion and tuple(sorted(self.members)) != self.fusion.members:
            raise ValueError(f"members names {', '.join(self.members)}, fusion {', '.join(self.fusion.members)}")
        return self

    @property
    def windows(self) -> "tuple[Inference, ...]":
        """The plan of each window alone, of the first part."""
        alone = self.model_copy(update={"further_windows": (), "members": {}})
        return alone, *(alone.model_copy(update=window.model_dump()) for window in self.further_windows)

    @property
    def parts(self) -> "tuple[Part, ...]":
        """What restores in tiles of its own; with the other base models together first."""
        alone = self.model_copy(update={"members": {}})
        if not self.members:
            return (Part("", (), len(self.fusion.members) if self.fusion else 1, alone),)
        names = sorted(self.members)
        together = tuple(place for place, name in enumerate(names) if self.members[name] is None)
        parts = [Part("", together, len(together) if self.fusion else 1, alone)]
        for place, name in enumerate(names):
            if tiling := self.members[name]:
                own = {field: getattr(tiling, field) for field in Tiling.model_fields}
                parts.append(Part(name, (place,), 1, alone.model_copy(update=own)))
        return tuple(parts)

    @property
    def tiles(self) -> tuple[int, ...]:
        """The sides of tiles that the network runs on, that of the first window first."""
        windows = itertools.chain(*(part.plan._windows() for part in self.parts))
        return tuple(dict.fromkeys(window.tile for window in windows))

    @property
    def graphs(self) -> tuple[tuple[str, int], ...]:
        """What has a graph of its own: each of its parts, by name, in each side of its tiles."""
        return tuple((part.name, side) for part in self.parts for side in part.plan.tiles)

    @property
    def several_graphs(self) -> bool:
        """Whether it takes more than one graph: tiles of several sizes, several parts, or a level estimator."""
        return len(self.graphs) > 1 or self.estimator is not None

    @property
    def dtype(self) -> str:
        """What the network takes and gives: `uint8`, or `float32` in [0, 1] where anything is made of its results."""
        several = self.orientations > 1 or self.passes > 1 or self.further_windows or self.members or self.fusion
        return "float32" if several else "uint8"

    @property
    def runs_per_megapixel(self) -> float:
        """Runs of the network on a tile that a million pixels of a large image take.

        A run on another window's tile counts as much as that has more pixels than the first one's, and one of a part
        of the base models as much as these are of all.
        """
        shares = [len(part.places) / len(self.members) if self.members else 1.0 for part in self.parts]
        pixels = sum(
            share * sum((window.tile / window.pitch) ** 2 for window in part.plan._windows())
            for share, part in zip(shares, self.parts, strict=True)
        )
        return self.orientations * self.passes * 1e6 * pixels / self.tile**2

    def seconds_per_megapixel(self, milliseconds: Mapping[tuple[str, int], float]) -> float:
        """How long a million pixels of a large image take.

        Args:
            milliseconds: Of one run on one tile, for each of `graphs`.
        """
        runs = {
            (part.name, window.tile): 1e6 / window.pitch**2 for part in self.parts for window in part.plan._windows()
        }
        return self.orientations * self.passes * sum(runs[graph] * milliseconds[graph] for graph in runs) / 1000

    @property
    def float_images(self) -> int:
        """Copies of the restored image in float32 that restoring holds at most, beside the image of the tiles' type."""
        kept = sum(part.results for part in self.parts) if len(self.parts) > 1 or self.fusion else 0
        several = max((part.results for part in self.parts if part.plan.further_windows), default=0)
        return kept + 2 * several + (6 if self.fusion else 1 if self.members else 0)

    def within(self, height: int, width: int) -> Self:
        """See `Window.within`; in all windows."""
        members = {name: tiling and tiling.within(height, width) for name, tiling in self.members.items()}
        return super().within(height, width).model_copy(update={"members": members})

    def enlarged(self) -> "Inference":
        """The plan of the restored image, in its pixels; of the first window."""
        sides = {name: self.scale * getattr(self, name) for name in Window.model_fields}
        return self.model_copy(update=sides)

    def of_base(self, name: str) -> "Inference":
        """How a base model restores alone: in its own tiles, without the fusion."""
        own = self.members.get(name)
        tiling = {field: getattr(own, field) for field in Tiling.model_fields} if own else {}
        return self.model_copy(update={"members": {}, "fusion": None, **tiling})

    def in_orientations(self, count: int | None) -> "Inference":
        """The same in another number of orientations; as it is when None.

        Raises:
            ConfigError: The number is none of 1, 2, 4 and 8.
        """
        if count is None:
            return self
        if count not in (1, 2, 4, 8):
            raise ConfigError(
                "There is no self-ensemble of so many orientations", where=count, next_step="use 1, 2, 4 or 8"
            )
        return self.model_copy(update={"orientations": count})

    def tile_fits(self, tile: int) -> bool:
        """Whether networks take tiles of this side, and its halo and overlap leave something of them."""
        return tile % 16 == 0 and tile - 2 * self.halo - self.overlap > 0

    def in_tiles(self, tile: int) -> "Inference":
        """The same in tiles of another side, in one window, of all base models.

        Raises:
            ConfigError: `tile_fits` says no.
        """
        if not self.tile_fits(tile):
            raise ConfigError(
                "Images cannot be restored in tiles of this size",
                where=f"{tile} pixels",
                next_step=f"use a multiple of 16 above {2 * self.halo + self.overlap}, twice the halo and the overlap",
            )
        return self.model_copy(update={"tile": tile, "further_windows": (), "members": {}})

    def around(self, height: int, width: int, reach: int) -> "Inference":
        """The same with a smaller tile, if one around a whole image changes no pixel of its result.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.
            reach: Pixels in each direction that a pixel of the result depends on.

        Returns:
            With a tile that is a multiple of 64, of which there are few, and has the image and as much of its mirror
            image as is needed.
        """
        side = -(-(max(height, width) + reach) // 64) * 64
        whole = {"tile": side, "halo": 0, "overlap": 0, "further_windows": ()}
        return self.model_copy(update=whole) if side < min(self.tiles) else self


class Part(NamedTuple):
    """Base models that restore in the same tiles.

    Attributes:
        name: That of the base model; empty for the first part, which is the whole network where there is one part.
        places: Of the base models among those of the final model, in the order of their names; empty for all.
        results: Images that the network of the part gives of a tile, in its channels.
        plan: How it restores.
    """

    name: str
    places: tuple[int, ...]
    results: int
    plan: Inference


def _shown(tiling: Tiling) -> str:
    return " and ".join(map(Window.__str__, tiling._windows()))


def before_format_3(tile: int, halo: int) -> Inference:
    """The plan of a served model of format 1 or 2, whose tiles overlapped by half of the halo.

    Raises:
        ValidationError: The halo does not fit the tile.
    """
    return Inference(tile=tile, halo=halo, overlap=(halo + 1) // 2)
