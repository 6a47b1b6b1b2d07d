#!/usr/bin/env python3
"""Runs nginx with deploy/nginx.conf in front of a small server on loopback, and looks at what comes through and what does not.

Only what belongs to a place is changed: paths, ports, the name of the server behind it. Usage: proxy.py NGINX CONFIGURATION
"""

import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PATIENCE_S = 10
BODY_MAX = 64 * 1024


class Upstream(BaseHTTPRequestHandler):
    """Stands for pgw: notes what it was asked, and answers with headers as pgw's."""

    protocol_version = "HTTP/1.1"
    seen = []
    first_event_read = threading.Event()

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        self.seen.append((self.command, self.path, dict(self.headers), len(self.rfile.read(length))))
        if self.path == "/api/broken":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(200)
        self.send_header("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
        if self.path == "/api/events/stream":
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"data: 1\n\n")
            self.wfile.flush()
            # The rest comes only once the client has the first: a proxy that collects would wait for ever.
            if self.first_event_read.wait(PATIENCE_S):
                self.wfile.write(b"data: 2\n\n")
            self.close_connection = True
            return
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configuration(source, scratch, plain, tls, upstream, version):
    """The configuration for this machine."""

    def change(text, pattern, replacement):
        changed, times = re.subn(pattern, replacement, text, flags=re.M)
        if not times:
            sys.exit(f"nothing in the configuration matches {pattern}")
        return changed

    text = change(source, r"/etc/nginx/tls/", f"{scratch}/")
    text = change(text, r"^pid .*;", f"pid {scratch}/pid;")
    text = change(text, r"/dev/stdout", f"{scratch}/access.log")
    text = change(text, r"server api:3000 ", f"server 127.0.0.1:{upstream} ")
    for port, here in ((80, plain), (443, tls)):
        text = change(text, rf"^( *listen )\[::\]:{port}\b.*\n", "")
        text = change(text, rf"^( *listen ){port}\b", rf"\g<1>127.0.0.1:{here}")
    # Directories that are compiled in.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = change(text, r"^http \{", "http { " + " ".join(f"{kind}_temp_path {scratch}/{kind};" for kind in kinds))
    if "http2 on;" not in text:
        sys.exit("HTTP/2 is not switched on by `http2 on;`")
    if version < (1, 25, 1):
        # An older one spells it as a word of `listen`.
        text = change(text, r"^ *http2 on;\n", "")
        text = change(text, rf"^( *listen 127\.0\.0\.1:{tls} ssl)", r"\1 http2")
    return text


def certificate(scratch):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost".split()
    subprocess.run([*command, "-keyout", f"{scratch}/privkey.pem", "-out", f"{scratch}/fullchain.pem"], check=True, capture_output=True)


def context(*protocols):
    found = ssl.create_default_context()
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    if protocols:
        found.set_alpn_protocols(list(protocols))
    return found


class Proxy:
    """A running nginx."""

    def __init__(self, nginx, scratch, plain, tls):
        self.plain, self.tls, self.errors = plain, tls, Path(scratch, "error.log")
        command = [nginx, "-p", scratch, "-c", f"{scratch}/nginx.conf", "-e", str(self.errors)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        if checked.returncode:
            sys.exit(checked.stderr)
        with open(self.errors, "ab") as log:
            self.process = subprocess.Popen([*command, "-g", "daemon off;"], stderr=log)

    def is_up(self):
        """Whether it listens, as soon as it does. It listens before it forks, so it has ended or will."""
        while self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.tls)) == 0:
                    return True
        return False

    def ask(self, method, path, body=None, headers=(), plain=False):
        if plain:
            connection = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=PATIENCE_S)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.tls, timeout=PATIENCE_S, context=context())
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text


def check(proxy, server):
    def expect(what, holds):
        if not holds:
            sys.exit(f"does not hold: {what}")
        print(f"holds: {what}")

    def count():
        return len(Upstream.seen)

    answer, text = proxy.ask("GET", "/api/payments", plain=True, headers=[("X-API-Key", "k")])
    refused = answer.status == 403 and not answer.getheader("Location") and "HTTPS required" in text
    expect("port 80 refuses and does not redirect", refused and not count())

    for path in ("/", "/metrics", "/health", "/readyz", "/livez", "/docs", "/openapi.json", "/apis", "/api"):
        answer, _ = proxy.ask("GET", path)
        expect(f"{path} is not public", answer.status == 404 and not count())
    answer, _ = proxy.ask("GET", "/metrics")
    expect("its own answers have security headers", "max-age=31536000" in answer.getheader("Strict-Transport-Security", ""))
    expect("its version is told to nobody", answer.getheader("Server") == "nginx")

    given = [("X-Forwarded-For", "203.0.113.7"), ("X-Real-IP", "203.0.113.7"), ("Forwarded", "for=203.0.113.7"), ("X-Request-Id", "req_1")]
    answer, _ = proxy.ask("POST", "/api/payments?a=1", b"x" * BODY_MAX, given)
    method, path, headers, length = Upstream.seen.pop()
    expect("a request of 64 KiB comes through whole", (method, path, length) == ("POST", "/api/payments?a=1", BODY_MAX))
    expect("the caller's address is the connection's, not the header's", headers.get("X-Forwarded-For") == "127.0.0.1")
    expect("no other header names an address", "203.0.113.7" not in str(headers))
    expect("the request's id is passed on", headers.get("X-Request-Id") == "req_1")
    expect("an answer has pgw's headers, once", len(answer.headers.get_all("Strict-Transport-Security", [])) == 1)

    answer, _ = proxy.ask("POST", "/api/payments", b"x" * (BODY_MAX + 1))
    expect("a larger one is 413 and does not", (answer.status, count()) == (413, 0))
    expect("413 is a problem", answer.getheader("Content-Type") == "application/problem+json")

    connection = http.client.HTTPSConnection("127.0.0.1", proxy.tls, timeout=PATIENCE_S / 2, context=context())
    connection.request("GET", "/api/events/stream")
    stream = connection.getresponse()
    first = stream.fp.readline() if not stream.chunked else stream.read1(9)
    Upstream.first_event_read.set()
    expect("events come as they are sent", first.strip() == b"data: 1" and b"data: 2" in stream.read())
    Upstream.seen.clear()

    answer, _ = proxy.ask("POST", "/api/broken", b"{}")
    expect("a POST that got no answer is sent once", count() == 1)
    expect("and answered with 503 and Retry-After", (answer.status, answer.getheader("Retry-After")) == (503, "1"))
    Upstream.seen.clear()

    with socket.create_connection(("127.0.0.1", proxy.tls), PATIENCE_S) as plain, context("h2").wrap_socket(plain) as secure:
        expect("HTTP/2 is spoken", secure.selected_alpn_protocol() == "h2")
        expect("TLS is 1.2 or newer", secure.version() in ("TLSv1.2", "TLSv1.3"))

    server.shutdown()
    server.server_close()
    answer, text = proxy.ask("GET", "/api/payments")
    expect("without pgw it is 503 and Retry-After, as a problem", answer.status == 503 and '"status":503' in text)


def main():
    nginx, source = sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8")
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    version = tuple(map(int, re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said).groups()))
    with tempfile.TemporaryDirectory() as scratch:
        # Its workers may have a user of their own.
        os.chmod(scratch, 0o755)
        certificate(scratch)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        plain, tls = free_port(), free_port()
        text = configuration(source, scratch, plain, tls, server.server_address[1], version)
        Path(scratch, "nginx.conf").write_text(text, encoding="utf-8")
        proxy = Proxy(nginx, scratch, plain, tls)
        try:
            if not proxy.is_up():
                sys.exit(proxy.errors.read_text(encoding="utf-8"))
            check(proxy, server)
        finally:
            proxy.process.terminate()
            proxy.process.wait()


if __name__ == "__main__":
    main()
