"""The two things that a world is made of: upright rectangles, and pictures that face the camera."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mini_city.textures import Texture


@dataclass(frozen=True)
class Wall:
    """One upright rectangle, seen from the side where `start` is on the left; lengths in metres.

    Attributes:
        start_m: Foot of the left edge (x, y).
        end_m: Foot of the right edge (x, y).
        bottom_m: Height of the lower edge above the ground.
        top_m: Height of the upper edge.
        solid_m: Height up to which nothing is seen through the wall; 0 if it hides nothing.
        faces_up: Whether it represents a roof seen from above, and is lit like one.
    """

    start_m: tuple[float, float]
    end_m: tuple[float, float]
    bottom_m: float
    top_m: float
    solid_m: float = 0.0
    faces_up: bool = False

    @property
    def width_m(self) -> float:
        """Length of the foot."""
        return float(np.hypot(self.end_m[0] - self.start_m[0], self.end_m[1] - self.start_m[1]))


@dataclass(frozen=True)
class Walls:
    """Many walls as arrays.

    Attributes:
        start_m, end_m: float64 [num_walls, 2].
        bottom_m, top_m, solid_m: float64 [num_walls].
        faces_up: bool [num_walls].
        texture_of: Returns the texture of wall i.
    """

    start_m: np.ndarray
    end_m: np.ndarray
    bottom_m: np.ndarray
    top_m: np.ndarray
    solid_m: np.ndarray
    faces_up: np.ndarray
    texture_of: Callable[[int], Texture]

    @classmethod
    def gather(cls, walls: Sequence[Wall], texture_of: Callable[[int], Texture]) -> "Walls":
        """Gather walls; textures are fetched for visible ones only."""
        return cls(
            start_m=np.array([wall.start_m for wall in walls], float).reshape(-1, 2),
            end_m=np.array([wall.end_m for wall in walls], float).reshape(-1, 2),
            bottom_m=np.array([wall.bottom_m for wall in walls], float),
            top_m=np.array([wall.top_m for wall in walls], float),
            solid_m=np.array([wall.solid_m for wall in walls], float),
            faces_up=np.array([wall.faces_up for wall in walls], bool),
            texture_of=texture_of,
        )

    def subset(self, indices: np.ndarray) -> "Walls":
        """Return the walls whose indices are given."""
        return Walls(
            start_m=self.start_m[indices],
            end_m=self.end_m[indices],
            bottom_m=self.bottom_m[indices],
            top_m=self.top_m[indices],
            solid_m=self.solid_m[indices],
            faces_up=self.faces_up[indices],
            texture_of=lambda wall: self.texture_of(int(indices[wall])),
        )


@dataclass(frozen=True)
class Billboard:
    """A flat picture that turns towards every camera: a tree, a pole, a person.

    Attributes:
        x_m, y_m: Its position.
        texture: What it shows; its size is the texture's, times `scale`.
        scale: Size relative to the texture.
    """

    x_m: float
    y_m: float
    texture: Texture
    scale: float = 1.0


def box_corners(
    x0_m: float, y0_m: float, x1_m: float, y1_m: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the feet of the south, east, north and west side of a box, each left to right."""
    corners = [(x0_m, y0_m), (x1_m, y0_m), (x1_m, y1_m), (x0_m, y1_m)]
    return [(corners[side], corners[(side + 1) % 4]) for side in range(4)]


@dataclass(frozen=True)
class Extras:
    """Temporary things: cars, people, fences."""

    walls: Sequence[Walls] = ()
    billboards: Sequence[Billboard] = ()
