"""A server that is some way off: each answer takes longer by the time that it needs on the way."""

from __future__ import annotations

import threading
import time

import requests

from .loopback import LoopbackServer, QuietHandler

FORWARDED = ("Accept", "Content-Type")
RETURNED = ("Content-Type", "Date")


class SlowNetwork(LoopbackServer):
    """Forwards to the server at `target`; both ways together take `seconds`."""

    def __init__(self, target: str, seconds: float) -> None:
        sessions = threading.local()

        class Handler(QuietHandler):
            def respond(self) -> None:
                if not hasattr(sessions, "session"):
                    sessions.session = requests.Session()
                    sessions.session.trust_env = False
                headers = {name: self.headers[name] for name in FORWARDED if name in self.headers}
                body = self.read_body()
                time.sleep(seconds)
                answer = sessions.session.request(self.command, target + self.path, data=body, headers=headers)
                self.send_response_only(answer.status_code)
                for name in RETURNED:
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

        super().__init__(Handler)
