from __future__ import annotations

import pytest

from app.delivery.addresses import Reach, checked_url, parse_networks


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_within_reach(address: str) -> None:
    assert address in Reach()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.5",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # where clouds keep the credentials of a machine
        "100.64.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fd00::5",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        # IPv4 addresses in disguise
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a00:5::1",
        "2001:0:7f00:1::",
    ],
)
def test_what_only_machines_nearby_reach_is_out_of_reach(address: str) -> None:
    assert address not in Reach()


def test_networks_that_are_named_are_within_reach_and_no_others() -> None:
    reach = Reach(parse_networks("10.1.0.0/16, fd00::/8"))
    assert "10.1.2.3" in reach
    assert "fd00::1" in reach
    assert "::ffff:10.1.2.3" in reach
    assert "10.2.0.1" not in reach
    assert "127.0.0.1" not in reach


def test_a_tunnel_is_within_reach_only_if_its_end_is() -> None:
    reach = Reach(parse_networks("2002::/16"))
    assert "2002:808:808::1" in reach
    assert "2002:7f00:1::1" not in reach


def test_everything_can_be_allowed() -> None:
    reach = Reach(parse_networks("0.0.0.0/0,::/0"))
    assert all(address in reach for address in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://example.com/", "expected http:// or https://"),
        ("file:///etc/passwd", "expected http:// or https://"),
        ("example.com/hook", "expected http:// or https://"),
        ("http:///hook", "and a host"),
        ("http://user:secret@example.com/", "a user or a password"),
        ("http://example.com/#part", "a fragment"),
        ("http://example.com:0/", "1 to 65535"),
        ("http://example.com:99999/", "not a URL|1 to 65535"),
        ("http://exa\nmple.com/", "not a URL"),
        ("http://[::1/", "not a URL"),
    ],
)
def test_a_url_that_is_none_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        checked_url(text)


def test_a_url_is_written_as_it_is_sent() -> None:
    assert str(checked_url("HTTP://EXÄMPLE.com/ä?q=1")) == "http://xn--exmple-cua.com/%C3%A4?q=1"
