"""The usual topologies. Grids count columns first: router r stands at column r % columns and row r // columns."""

from __future__ import annotations

from itertools import product

from archsim.errors import InputError
from archsim.noc.network import Network, join

__all__ = ["concentrated_mesh", "crossbar", "fat_tree", "flattened_butterfly", "hierarchical", "mesh", "ring", "torus"]


def mesh(columns: int, rows: int, *, link_cycles: int = 1) -> Network:
    """A grid with one node on every router.

    >>> mesh(3, 2).links
    14
    """
    return _grid("mesh", columns, rows, link_cycles, wraps=False)


def torus(columns: int, rows: int, *, link_cycles: int = 2) -> Network:
    """A grid whose opposite edges are joined; folded, so that every link is two tiles long.

    >>> torus(4, 4).links
    64
    """
    return _grid("torus", columns, rows, link_cycles, wraps=True)


def ring(nodes: int, *, link_cycles: int = 1) -> Network:
    """Nodes in a circle, links both ways."""
    return _grid("ring", nodes, 1, link_cycles, wraps=True)


def concentrated_mesh(columns: int, rows: int, *, width: int = 2, height: int = 2, link_cycles: int = 2) -> Network:
    """A mesh of routers that serve a block of `width` x `height` nodes each; nodes are numbered row by row of nodes.

    >>> concentrated_mesh(2, 2).node_router.tolist()
    [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    """
    grid = _grid("cmesh", columns, rows, link_cycles, wraps=False)
    return _rehouse(grid, _blocks(columns, rows, width, height))


def flattened_butterfly(columns: int, rows: int, *, width: int = 2, height: int = 2) -> Network:
    """Routers joined to all others of their row and of their column, by wires as long as the tiles between them."""
    _check("flatfly", columns, rows, width, height)
    at = {(x, y): y * columns + x for y, x in product(range(rows), range(columns))}
    links = []
    for y, x in product(range(rows), range(columns)):
        links += [(at[x, y], at[far, y], width * abs(far - x)) for far in range(columns) if far != x]
        links += [(at[x, y], at[x, far], height * abs(far - y)) for far in range(rows) if far != y]
    return join("flatfly", columns * rows, links, _blocks(columns, rows, width, height))


def crossbar(nodes: int) -> Network:
    """All nodes on one router."""
    _check("crossbar", nodes)
    return join("crossbar", 1, [], [0] * nodes)


def hierarchical(clusters: int, cores: int, ports: int, *, link_cycles: int = 1) -> Network:
    """Clusters of cores, each behind its own router, joined by one crossbar that also carries `ports` memory ports.

    This is how GPUs are built: the cores of a cluster share one port of the crossbar. Nodes 0..clusters*cores-1 are the
    cores, the others the memory ports.

    >>> hierarchical(2, 3, 4).node_router.tolist()
    [1, 1, 1, 2, 2, 2, 0, 0, 0, 0]
    """
    _check("hierarchical", clusters, cores, ports)
    links = [(a, b, link_cycles) for i in range(1, clusters + 1) for a, b in ((0, i), (i, 0))]
    homes = [1 + i for i in range(clusters) for _ in range(cores)] + [0] * ports
    return join("hierarchical", clusters + 1, links, homes)


def fat_tree(arity: int, levels: int, *, link_cycles: int = 1) -> Network:
    """A k-ary n-tree: arity^(levels - 1) routers on each level, arity ports down and as many up, arity^levels nodes.

    Level 0 is the top. Router (level, position) reaches, going down, the routers of the next level whose position
    differs in digit `level` only, counted from the most significant one.

    >>> tree = fat_tree(2, 3)
    >>> tree.routers, tree.nodes, tree.links
    (12, 8, 32)
    """
    _check("fattree", arity, levels)
    width = arity ** (levels - 1)
    links = []
    for level, position in product(range(levels - 1), range(width)):
        step = arity ** (levels - 2 - level)
        base = position - position // step % arity * step
        for digit in range(arity):
            upper, lower = level * width + position, (level + 1) * width + base + digit * step
            links += [(upper, lower, link_cycles), (lower, upper, link_cycles)]
    homes = [(levels - 1) * width + node // arity for node in range(arity**levels)]
    return join("fattree", levels * width, links, homes)


def _grid(name: str, columns: int, rows: int, link_cycles: int, *, wraps: bool) -> Network:
    """Links of every router in the order east, west, south, north (towards higher numbers first)."""
    _check(name, columns, rows, link_cycles)
    links = []
    for y, x in product(range(rows), range(columns)):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            far_x, far_y = x + dx, y + dy
            if wraps:
                far_x, far_y = far_x % columns, far_y % rows
            if (far_x, far_y) != (x, y) and 0 <= far_x < columns and 0 <= far_y < rows:
                links.append((y * columns + x, far_y * columns + far_x, link_cycles))
    return join(name, columns * rows, links, range(columns * rows), shape=(columns, rows), wraps=wraps)


def _blocks(columns: int, rows: int, width: int, height: int) -> list[int]:
    """The router of each node where routers serve blocks of nodes."""
    _check("blocks of nodes", width, height)
    return [y // height * columns + x // width for y in range(rows * height) for x in range(columns * width)]


def _rehouse(network: Network, node_router: list[int]) -> Network:
    links = zip(network.link_from.tolist(), network.link_to.tolist(), network.link_cycles.tolist(), strict=True)
    return join(network.name, network.routers, links, node_router, shape=network.shape, wraps=network.wraps)


def _check(name: str, *sizes: int) -> None:
    if min(sizes) < 1:
        raise InputError(f"network {name}: sizes and latencies are at least 1, but {min(sizes)} was given.")
