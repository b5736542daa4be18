"""The network is off unless a file says otherwise, and only addresses of the public internet are
connected to.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver

from cocktail.trainer.data.fetch import network
from cocktail.trainer.data.fetch.network import (
    BadURL,
    Failure,
    NetworkSettings,
    RefusedAddress,
    check_url,
    connector,
    is_public,
    network_errors,
    read_network_settings,
    require_download,
    require_wandb,
    retry_after_s,
    robots_tags,
)
from cocktail.trainer.errors import TrainerError

PUBLIC_ONLY = NetworkSettings(download=True)
ALL = NetworkSettings(download=True, private_addresses=True)


@pytest.fixture
def server():
    """A web server on the loopback address; `server.paths` are what it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Names(AbstractResolver):
    """A name server that gives the next of its answers at every question."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host, port=0, family=0):
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": network.socket.AF_INET6 if ":" in address else network.socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        pass


def fetch(url: str, settings: NetworkSettings, names: AbstractResolver | None = None) -> bytes:
    async def ask() -> bytes:
        async with aiohttp.ClientSession(connector=connector(settings, 1, names)) as session:
            with network_errors():
                async with session.get(url, allow_redirects=False) as response:
                    return await response.read()
        raise AssertionError

    return asyncio.run(ask())


def test_without_a_file_everything_is_off(tmp_path):
    assert read_network_settings(tmp_path / "network.json") == NetworkSettings(False, False)
    with pytest.raises(TrainerError, match="is off") as caught:
        require_download(tmp_path / "network.json")
    assert '{"download": true}' in str(caught.value)
    assert str(tmp_path / "network.json") in str(caught.value)


def test_a_file_that_allows_private_addresses_only_allows_no_download(tmp_path):
    file = tmp_path / "network.json"
    file.write_text('{"private_addresses": true}', encoding="utf-8")
    assert read_network_settings(file) == NetworkSettings(False, True)
    with pytest.raises(TrainerError, match="is off"):
        require_download(file)


def test_a_file_written_by_notepad_is_read(tmp_path):
    file = tmp_path / "network.json"
    file.write_bytes(b'\xef\xbb\xbf{"download": true}\r\n')
    assert read_network_settings(file) == PUBLIC_ONLY


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"download": true', "not JSON"),
        ("", "not JSON"),
        ("\udcff", "not JSON"),
        ("[true]", "not an object"),
        ('{"downloads": true}', "unknown keys: downloads; known are download, private_addresses"),
        ('{"download": 1}', "download in .* is 1; it must be true or false"),
        ('{"download": "true"}', 'is "true"'),
        ('{"download": null}', "is null"),
    ],
)
def test_a_file_with_anything_else_is_refused_and_says_what_to_write(tmp_path, text, words):
    file = tmp_path / "network.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TrainerError, match=words) as caught:
        read_network_settings(file)
    assert f'write {{"download": true}} into {file}' in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.1.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2001:db8::1",
        "nonsense",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "//example.com/a.png",
        "images/1.png",
        "",
        "http://",
        "http:///a.png",
        "http://example.com:port/a.png",
        "http://[::1/a.png",
        "http://somebody:secret@example.com/a.png",
    ],
)
def test_anything_but_a_plain_web_address_is_refused(url):
    with pytest.raises(BadURL):
        check_url(url, ALL)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:7f00:1]", "169.254.169.254:80"])
def test_an_address_in_a_url_is_checked(host):
    assert check_url(f"http://{host}/a.png", ALL)
    with pytest.raises(RefusedAddress):
        check_url(f"http://{host}/a.png", PUBLIC_ONLY)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "127.1", "0", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.0.1", "127.0.0.01",
        "127.1.", "0x", "\uff11\uff12\uff17.1", "127\u30020\u30020\u30021", "foo.0x7f",
        "4294967295", "99999999999", "127.0.0.1.5",
    ],
)  # fmt: skip
def test_a_number_in_another_spelling_is_refused_before_anything_connects(host):
    for settings in (PUBLIC_ONLY, ALL):
        try:
            check_url(f"http://{host}/a.png", settings)
        except (RefusedAddress, BadURL):
            continue
        assert settings == ALL and host.startswith("127\u3002"), "yarl wrote it as 127.0.0.1"


@pytest.mark.parametrize("host", ["1.example.com", "0x7f.example", "a1", "3com", "xn--0-9ga.de"])
def test_names_with_digits_are_names(host):
    assert check_url(f"http://{host}/a.png", PUBLIC_ONLY)


def test_without_the_gate_at_the_socket_nothing_is_fetched(tmp_path, monkeypatch, server):
    file = tmp_path / "network.json"
    file.write_text('{"download": true}', encoding="utf-8")
    monkeypatch.setattr(network, "has_socket_gate", lambda: False)
    with pytest.raises(TrainerError, match="Update it"):
        require_download(file)
    with pytest.raises(Failure, match="Update it"):
        fetch(f"http://localhost:{server.server_port}/", PUBLIC_ONLY)
    assert server.paths == []


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1"])
def test_a_name_that_leads_to_this_machine_is_refused_before_anything_is_asked(server, host):
    url = f"http://{host}:{server.server_port}/secret"
    with pytest.raises(Failure) as caught:
        fetch(url, PUBLIC_ONLY)
    assert caught.value.status in ("refused_address", "dns", "bad_url")
    assert server.paths == []
    if host == "localhost":
        assert caught.value.status == "refused_address"
        assert fetch(url, ALL) == b"ok"


def test_one_private_address_among_public_ones_refuses_the_name(server):
    with pytest.raises(Failure, match="cdn.test leads to a refused address: 127.0.0.1") as caught:
        fetch(
            f"http://cdn.test:{server.server_port}/",
            PUBLIC_ONLY,
            Names(["93.184.216.34", "127.0.0.1"]),
        )
    assert caught.value.status == "refused_address"


def test_a_name_that_becomes_private_between_two_questions_is_refused(server):
    """DNS rebinding: what is checked is the answer that is connected to, and there is no second
    question in between.
    """
    names = Names(["127.0.0.1"], ["127.0.0.1"])
    url = f"http://cdn.test:{server.server_port}/"
    check_url(url, PUBLIC_ONLY)
    with pytest.raises(Failure) as caught:
        fetch(url, PUBLIC_ONLY, names)
    assert caught.value.status == "refused_address"
    assert server.paths == []
    assert fetch(url, ALL, names) == b"ok"


@pytest.mark.skipif(
    "socket_factory" not in inspect.signature(aiohttp.TCPConnector.__init__).parameters,
    reason="aiohttp 3.12 is the first that lets sockets be checked",
)
def test_the_socket_is_checked_too(server):
    """An address that is in no URL check and asks no name server: the last gate stands alone."""
    with pytest.raises(Failure) as caught:
        fetch(f"http://127.0.0.1:{server.server_port}/", PUBLIC_ONLY)
    assert caught.value.status == "refused_address"
    assert server.paths == []


def test_weights_and_biases_is_behind_the_owners_switch(tmp_path):
    file = tmp_path / "network.json"
    for text in (None, "{}", '{"download": true}', '{"wandb": false}'):
        if text:
            file.write_text(text, encoding="utf-8")
        with pytest.raises(TrainerError, match="has not allowed"):
            require_wandb(file)
    file.write_text('{"wandb": true}', encoding="utf-8")
    require_wandb(file)


def test_robots_tags():
    assert robots_tags(["noindex, NoAI", "nofollow"]) == {"noindex", "noai", "nofollow"}
    assert "noindex" in robots_tags(["none"])
    assert robots_tags(["googlebot: noindex, noai"]) == set()
    assert robots_tags(["cocktail: noai"]) == {"noai"}
    assert robots_tags(["*: noimageai"]) == {"noimageai"}
    assert "noai" in robots_tags(["max-image-preview: none, noai"])
    assert "noai" in robots_tags(["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"])
    assert robots_tags([]) == set()


def test_retry_after_is_a_number_of_seconds_or_a_date():
    assert retry_after_s("7") == 7.0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("Fri, 31 Dec 2100 23:59:59 GMT") > 1e9
    assert [retry_after_s(text) for text in (None, "", "soon", "-5", "1e9")] == [0.0] * 5
    never = "Mon, 01 Jan 2024 00:00"
    for text in (f"{never}:00 +{'9' * 20}", f"{never}:{'9' * 25} GMT", "\u00b2", "\udcff"):
        assert retry_after_s(text) == 0.0


def test_the_settings_file_is_plain_json(tmp_path):
    file = tmp_path / "network.json"
    file.write_text(json.dumps({"download": True, "private_addresses": True}), encoding="utf-8")
    assert require_download(file) == ALL


def test_settings_that_are_nested_too_deeply_are_no_json(tmp_path):
    (tmp_path / "network.json").write_text("[" * 100_000)
    with pytest.raises(TrainerError, match="are not JSON"):
        read_network_settings(tmp_path / "network.json")
