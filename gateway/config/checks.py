"""What no single value can tell: names that must exist, keys that need or exclude each other.

These checks run on what could be read, also when other values are bad, so that one run shows all
faults; a value that is bad is never reported a second time as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gateway.bodies import FILE_KEYS
from gateway.config.model import Address
from gateway.config.place import Place, echo, nearest, type_text
from gateway.config.retries import check_retry
from gateway.config.senders import check_burst, check_signing_key, check_webhook
from gateway.config.tls import tls_context
from gateway.config.values import address_text, host_reach
from gateway.config.walker import Values, build
from gateway.expressions import split_call

# What a handler decides itself.
_OF_CALLS = frozenset({"body", "body_format", "headers"}) | {
    *("retry_on", "success", "fail_when", "retry_when"),
}


def check_all(root: Values) -> None:
    """Report every fault between the values of *root*."""
    _check_listeners(root)
    if "server" in root:
        check_burst(root["server"])
    vendors: Mapping[str, Values] = root.get("vendors", {})
    for name, vendor in vendors.items():
        _check_vendor(name, vendor)
    first_lines: dict[str, int | None] = {}
    for route in root.get("routes", ()):
        _check_unique(route, first_lines)
        _check_route(route, vendors)


def _check_listeners(root: Values) -> None:
    server, admin = root.get("server", {}), root.get("admin", {})
    public: Address | None = server.get("listen")
    private: Address | None = admin.get("listen")
    if private is None:
        return
    place = root.place.at("admin")
    if "token" not in admin.given and host_reach(private.host) != "loopback":
        place.at("token").fault(
            f"is required, since admin.listen {address_text(private)} is not on loopback",
            'write token = "env:GATEWAY_ADMIN_TOKEN", or listen on 127.0.0.1',
        )
    if public is not None and _overlap(public, private):
        place.at("listen").fault(
            f"{address_text(private)} is also the public listener's address",
            "give it another port: operators' pages never stand on the public one",
        )


def _overlap(one: Address, other: Address) -> bool:
    hosts = {_canonical_host(one.host), _canonical_host(other.host)}
    return one.port == other.port != 0 and (len(hosts) == 1 or bool(hosts & {"0.0.0.0", "::"}))  # noqa: S104


def _canonical_host(host: str) -> str:
    return "127.0.0.1" if host.lower() == "localhost" else host.lower()


def _check_vendor(name: str, vendor: Values) -> None:
    if not vendor.given:  # else there is at least a misspelt one, reported already
        vendor.place.fault(
            "the vendor neither sends nor is called",
            f"add [vendors.{name}.webhook] or [vendors.{name}.api]",
        )
    if "webhook" in vendor:
        check_webhook(name, vendor["webhook"])
    if "api" in vendor:
        _check_api(vendor["api"])


def _check_api(api: Values) -> None:
    if "base_url" in api:
        _check_reach(api["base_url"], api)
    auth = api.get("auth", {})
    sign = auth.get("sign", {})
    if "scheme" in sign and "secret" in sign:
        check_signing_key(sign["scheme"], sign["secret"], sign.place.at("secret"))
    if "tls" in api:
        _check_tls(api["tls"], api.get("base_url", ""))
    if "proxy" in api:
        _check_proxy(api["proxy"], allow_private=api.get("allow_private") is not False)
    _check_verdicts(api, {})
    if "retry" in api:
        check_retry(api["retry"], {})


def _check_verdicts(values: Values, inherited: Mapping[str, Any]) -> None:
    both = {**inherited, **values}
    for item in sorted(set(both.get("success", ())) & set(both.get("retry_on", ()))):
        values.place.at("success" if "success" in values.given else "retry_on").fault(
            f'"{item}" is in both success and retry_on',
            "an answer either completes a job or is tried again",
        )


def _check_tls(tls: Values, base_url: str) -> None:
    place = tls.place
    if not tls.given:
        place.fault("says nothing", "write ca, certificate and key, or leave it out")
    for name, other in (("key", "certificate"), ("password", "certificate")):
        if name in tls.given and other not in tls.given:
            place.at(name).fault(f"has no {other} to go with", 'write certificate = "file:…"')
            return
    if base_url.startswith("http://"):
        place.warn("has no effect on a base_url with http")
    if tls.given != set(tls):
        return  # a part of it is bad, or unknown
    try:
        tls_context(build(tls))
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        place.at(name).fault(problem, "PEM begins with -----BEGIN")


def _check_proxy(proxy: Values, *, allow_private: bool) -> None:
    reach = host_reach(urlsplit(proxy.get("url", "")).hostname or "")
    if reach != "public" and not (allow_private or proxy.get("allow_private")):
        proxy.place.warn(
            f"the proxy is {reach}: it is refused unless you write "
            "proxy = { url = …, allow_private = true }"
        )
    for name, other in (("username", "password"), ("password", "username")):
        if name in proxy.given and other not in proxy.given:
            proxy.place.at(name).fault(f"has no {other} to go with", f"write {other} beside it")


def _check_reach(base_url: str, api: Values) -> None:
    place = api.place.at("base_url")
    parts = urlsplit(base_url)
    reach = host_reach(parts.hostname or "")
    if reach != "public" and api.get("allow_private") is False:
        place.warn(f"{parts.hostname} is {reach}: calls are refused unless allow_private = true")
    if parts.scheme == "http" and reach == "public":
        place.warn("http sends bodies and secrets readable by everyone on the way; use https")


def _check_unique(route: Values, first_lines: dict[str, int | None]) -> None:
    name = route.get("name")
    if name is None:
        return
    place = route.place.at("name")
    if name in first_lines:
        line = first_lines[name]
        where = f" (line {line})" if line else ""
        place.fault(f'another route{where} is called "{name}"', "names are unique: change one")
    else:
        first_lines[name] = place.line


def _check_route(route: Values, vendors: Mapping[str, Values]) -> None:
    if "from" in route:
        _check_has(route["from"], "webhook", vendors, route.place.at("from"))
    acts = route.given & {"call", "handler"}
    if len(acts) != 1:
        route.place.fault(
            "has both call and handler" if acts else "has neither call nor handler",
            'write either call = "POST vendor:/path" or handler = "package.module:function"',
        )
    if "call" in route:
        called = split_call(route["call"]).vendor
        _check_has(called, "api", vendors, route.place.at("call"))
        if route.get("lane", called) != called:
            route.place.at("lane").fault(
                f"{echo(route['lane'])} is not the called vendor", "leave lane out"
            )
    elif "lane" in route and route["lane"] != "local":
        _check_has(route["lane"], "api", vendors, route.place.at("lane"))
    if acts == {"handler"}:
        for key in sorted(route.given & _OF_CALLS):
            route.place.at(key).fault("belongs to call, not to handler", "leave it out")
    if "call" in route and "body_format" in route:
        _check_body(route, route["body_format"])
    if route.get("on_dead") == "block" and "ordering_key" not in route.given:
        route.place.at("on_dead").warn("has no effect without ordering_key")
    if "retry" in route:
        check_retry(route["retry"], _lane_api(route, vendors).get("retry", {}))
    if route.given & {"success", "retry_on"} and "call" in route:
        _check_verdicts(route, _lane_api(route, vendors))


def _check_body(route: Values, body_format: str) -> None:
    place = route.place.at("body_format")
    if "body" not in route:
        if body_format != "raw" and "body" not in route.given:
            place.fault(f'"{body_format}" needs a body', 'write body = { … }, or leave it "raw"')
        return
    body = route["body"]
    if body_format == "raw" and not isinstance(body, str):
        place.fault(f'"raw" is for a string, and body is {type_text(body)}', 'write "json"')
    if body_format not in ("form", "multipart"):
        return
    # A string may be one template that gives a table.
    if not isinstance(body, dict) and not (isinstance(body, str) and "{{" in body):
        place.fault(
            f'"{body_format}" is made of a table, and body is {type_text(body)}',
            "write body = { … }",
        )
    if body_format == "multipart":
        _check_multipart(route, body)


def _check_multipart(route: Values, body: object) -> None:
    for name in route.get("headers", {}):
        if name.lower() == "content-type":
            route.place.at("headers", name).fault(
                "a multipart body brings its own, with the boundary", "leave it out"
            )
    for name, item in body.items() if isinstance(body, dict) else ():
        if not isinstance(item, dict):
            continue
        place = route.place.at("body", name)
        for key in sorted(set(item) - FILE_KEYS):
            place.at(key).fault("unknown key of a file", nearest(key, FILE_KEYS, what="known keys"))
        if ("content" in item) == ("base64" in item):
            place.fault("a file has either content or base64", "write content = …")


def _check_has(name: str, part: str, vendors: Mapping[str, Values], place: Place) -> None:
    """Report that there is no vendor *name*, or that it lacks *part*, "webhook" or "api"."""
    if name not in vendors:
        able = [other for other, vendor in vendors.items() if part in vendor.given]
        verb = "sends webhooks" if part == "webhook" else "can be called"
        place.fault(f"unknown vendor {echo(name)}", nearest(name, able, what=f"vendor that {verb}"))
    elif part not in vendors[name].given:
        place.fault(
            f'vendor "{name}" has no {part} section',
            f"add [vendors.{name}.{part}], or name another vendor",
        )


def _lane_api(route: Values, vendors: Mapping[str, Values]) -> Mapping[str, Any]:
    lane = split_call(route["call"]).vendor if "call" in route else route.get("lane", "local")
    api: Mapping[str, Any] = {}
    if lane in vendors and "api" in vendors[lane]:
        api = vendors[lane]["api"]
    return api
