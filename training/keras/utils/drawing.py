"""Draws boxes and edges in layers with matplotlib: no box covers another one, and long edges go around boxes."""

import dataclasses
import io
from typing import TYPE_CHECKING, NamedTuple

from flaxmodels.extras import require_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT = 9  # points
CHARACTER, ROW = 0.082, 0.26  # inches of a character and of a row of text
GAP_ACROSS, GAP_ALONG = 0.35, 0.45  # inches between boxes of one layer, and between layers
MARGIN = 0.32
LANE = 0.15  # inches that a long edge takes where it passes boxes


Point = tuple[float, float]


class Cell(NamedTuple):
    """A part of a row of a box."""

    text: str
    color: str = "white"


@dataclasses.dataclass
class Box:
    """A box with a title and rows of cells; `cluster` names the nested models around it, outermost first."""

    key: str
    title: str
    rows: list[list[Cell]] = dataclasses.field(default_factory=list)
    cluster: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        texts = [[self.title], *([cell.text for cell in row] for row in self.rows)]
        width = max(sum(len(text) + 3 for text in row) for row in texts) * CHARACTER
        return width, ROW * len(texts)


class Edge(NamedTuple):
    """A connection between two boxes, given by their keys."""

    source: str
    target: str


class _Place:
    """A box, or the lane of a long edge in a layer; `center` is its position across and along the layers."""

    def __init__(self, box: Box | None, size: tuple[float, float]):
        self.box, self.size = box, size
        self.center = (0.0, 0.0)


def draw(boxes: list[Box], edges: list[Edge], rankdir: str, splines: str, dpi: int, kind: str) -> bytes:
    """Returns a picture of boxes and edges.

    Args:
        boxes: The boxes.
        edges: The edges; without cycles.
        rankdir: "TB", "BT", "LR" or "RL".
        splines: "ortho" for right angles, "curved" or "spline" for curves, otherwise straight lines.
        dpi: Dots per inch.
        kind: "png", "svg", "pdf", "jpg" or "jpeg".

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    require_extra("matplotlib", "Pictures of models need")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sideways = rankdir in ("LR", "RL")
    places, routes = _layout(boxes, edges, sideways)
    breadth, length = _extent(places, sideways)

    def position(point: Point) -> Point:
        """Returns a point in inches from the lower left corner."""
        across, along = point
        along = along if rankdir in ("LR", "BT") else length - along
        return (along, breadth - across) if sideways else (across, along)

    width, height = (length, breadth) if sideways else (breadth, length)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    for route in routes:
        _draw_edge(axes, [position(point) for point in route], sideways, splines)
    centers = {place.box.key: position(place.center) for place in places if place.box is not None}
    _draw_clusters(axes, boxes, centers)
    for box in boxes:
        _draw_box(axes, box, centers[box.key])
    file = io.BytesIO()
    # Without a date and with fixed ids, one model gives the same bytes.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": "model", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, dpi=dpi, facecolor="white", metadata=metadata)
    return file.getvalue()


# ---------------------------------------------------------------- layout


def _layout(boxes: list[Box], edges: list[Edge], sideways: bool) -> tuple[list[_Place], list[list[Point]]]:
    """Returns the places of boxes and lanes, and the points of each edge from box to box."""
    depth = {box.key: 0 for box in boxes}
    for _ in boxes:  # the longest path to each box; the number of rounds is at most its length
        changed = False
        for edge in edges:
            if depth[edge.target] < depth[edge.source] + 1:
                depth[edge.target] = depth[edge.source] + 1
                changed = True
        if not changed:
            break
    layers: list[list[_Place]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    at = {box.key: _Place(box, box.size[::-1] if sideways else box.size) for box in boxes}
    for box in boxes:
        layers[depth[box.key]].append(at[box.key])
    chains = []
    for edge in edges:
        lanes = [_Place(None, (LANE, 0.0)) for _ in range(depth[edge.source] + 1, depth[edge.target])]
        for i, lane in enumerate(lanes, depth[edge.source] + 1):
            layers[i].append(lane)
        chains.append([at[edge.source], *lanes, at[edge.target]])
    _reorder(layers, chains)
    _assign(layers)
    return [place for layer in layers for place in layer], [_route(chain) for chain in chains]


def _reorder(layers: list[list[_Place]], chains: list[list[_Place]]) -> None:
    """Sorts each layer by the mean position of the neighbors, which avoids most crossings."""
    before: dict[_Place, list[_Place]] = {}
    after: dict[_Place, list[_Place]] = {}
    for chain in chains:
        for a, b in zip(chain, chain[1:], strict=False):
            before.setdefault(b, []).append(a)
            after.setdefault(a, []).append(b)
    for neighbors, order in ((before, layers), (after, layers[::-1])) * 3:
        for layer in order:
            rank = {place: i for others in layers for i, place in enumerate(others)}
            means = {
                place: sum(rank[n] for n in neighbors[place]) / len(neighbors[place])
                if place in neighbors
                else float(rank[place])
                for place in layer
            }
            layer.sort(key=means.__getitem__)


def _assign(layers: list[list[_Place]]) -> None:
    """Gives each place its center: layers are centered, one after another."""
    breadths = [sum(place.size[0] for place in layer) + GAP_ACROSS * (len(layer) - 1) for layer in layers]
    along = MARGIN
    for layer, breadth in zip(layers, breadths, strict=True):
        across = MARGIN + (max(breadths) - breadth) / 2
        thickness = max((place.size[1] for place in layer), default=0.0)
        for place in layer:
            place.center = across + place.size[0] / 2, along + thickness / 2
            across += place.size[0] + GAP_ACROSS
            place.size = place.size if place.box is not None else (LANE, thickness)
        along += thickness + GAP_ALONG


def _route(chain: list[_Place]) -> list[Point]:
    """Returns the points of an edge: the end of a box, both ends of each lane, and the start of the next box."""
    points = []
    for i, place in enumerate(chain):
        across, along = place.center
        half = place.size[1] / 2
        if i > 0:
            points.append((across, along - half))
        if i < len(chain) - 1:
            points.append((across, along + half))
    return points


def _extent(places: list[_Place], sideways: bool) -> tuple[float, float]:
    across = max(place.center[0] + place.size[0] / 2 for place in places)
    along = max(place.center[1] + place.size[1] / 2 for place in places)
    return across + MARGIN, along + MARGIN


# ---------------------------------------------------------------- drawing


def _draw_edge(axes: "Axes", points: list[Point], sideways: bool, splines: str) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    codes, corners = [Path.MOVETO], [points[0]]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        bends = [(middle_x, y0), (middle_x, y1)] if sideways else [(x0, middle_y), (x1, middle_y)]
        if splines == "ortho":
            corners += [*bends, (x1, y1)]
            codes += [Path.LINETO] * 3
        elif splines in ("curved", "spline"):
            corners += [*bends, (x1, y1)]
            codes += [Path.CURVE4] * 3
        else:
            corners.append((x1, y1))
            codes.append(Path.LINETO)
    axes.add_patch(FancyArrowPatch(path=Path(corners, codes), arrowstyle="-|>", mutation_scale=9, linewidth=1.2))


def _draw_clusters(axes: "Axes", boxes: list[Box], centers: dict[str, tuple[float, float]]) -> None:
    """Draws a dashed frame around the boxes of each nested model."""
    from matplotlib.patches import Rectangle

    paths = {box.cluster[:n] for box in boxes for n in range(1, len(box.cluster) + 1)}
    deepest = max(map(len, paths), default=0)
    for path in sorted(paths):
        inside = [box for box in boxes if box.cluster[: len(path)] == path]
        pad = 0.08 * (deepest - len(path) + 1)
        left = min(centers[box.key][0] - box.size[0] / 2 for box in inside) - pad
        right = max(centers[box.key][0] + box.size[0] / 2 for box in inside) + pad
        low = min(centers[box.key][1] - box.size[1] / 2 for box in inside) - pad
        high = max(centers[box.key][1] + box.size[1] / 2 for box in inside) + pad
        axes.add_patch(Rectangle((left, low), right - left, high - low, fill=False, linestyle="--", linewidth=0.8))
        axes.text(left, high + 0.02, path[-1], fontsize=FONT - 2, va="bottom", ha="left")


def _draw_box(axes: "Axes", box: Box, center: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    width, height = box.size
    left, top = center[0] - width / 2, center[1] + height / 2
    rows = [[Cell(box.title, "black")], *box.rows]
    for i, row in enumerate(rows):
        letters = sum(len(cell.text) + 3 for cell in row)
        start = left
        for cell in row:
            share = width * (len(cell.text) + 3) / letters
            low = top - (i + 1) * ROW
            axes.add_patch(Rectangle((start, low), share, ROW, facecolor=cell.color, edgecolor="black", linewidth=0.8))
            axes.text(
                start + share / 2, low + ROW / 2, cell.text, fontsize=FONT, va="center", ha="center",
                color="white" if cell.color == "black" else "black", weight="bold" if i == 0 else "normal",
                parse_math=False,
            )  # fmt: skip
            start += share
