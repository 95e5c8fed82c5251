"""The page at ``/``: the figures, rendered here; no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gateway.web.figures import RouteView, ServiceView, StatsView, VendorView

REFRESH_SECONDS = 5


class Dashboard:
    """Renders the page; the template and its style are read once."""

    def __init__(self) -> None:
        environment = Environment(
            loader=PackageLoader("gateway.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(span=_span, count=lambda n: f"{n:,}", size=_size, clock=_clock)
        style = environment.get_template("dashboard.css").render()
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._style = Markup(style)  # noqa: S704  # ours
        self._policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none';"
            " base-uri 'none'; form-action 'none'"
        )
        self._template = environment.get_template("dashboard.html")

    def render(
        self,
        service: ServiceView,
        stats: StatsView | None,
        vendors: Sequence[VendorView],
        routes: Sequence[RouteView],
    ) -> web.Response:
        """Return the page; *stats* None: the database is away."""
        page = self._template.render(
            style=self._style,
            refresh_seconds=REFRESH_SECONDS,
            service=service,
            stats=stats,
            vendors=vendors,
            routes=routes,
        )
        return web.Response(
            text=page,
            content_type="text/html",
            charset="utf-8",
            headers={"Content-Security-Policy": self._policy},
        )


def _span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = int(seconds)
    for large, small, size in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if whole >= size:
            part = {"h": 3600, "min": 60, "s": 1}[small]
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
