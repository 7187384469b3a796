"""A web server on this machine, for what is downloaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Serves what is in `pages`: bytes, or a function that answers by a request's handler."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.pages: dict[str, Answer] = {}
        """Path with query -> what it gives."""
        self.requests: list[tuple[str, str | None]] = []
        """Paths asked for, and their Authorization headers."""

    def add(self, path: str, answer: Answer) -> str:
        """Serve something at a path, and return its URL."""
        self.pages[path] = answer
        return f"{self.root}{path}"


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers.get("Authorization")))
            answer = server.pages.get(self.path)
            if answer is None:
                self.send_error(404)
            elif isinstance(answer, bytes):
                send(self, answer)
            else:
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        server = Server(httpd.server_port)
        thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    """Answer with content; `length` is what the header claims."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer that leads elsewhere."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
