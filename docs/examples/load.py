"""Measure a server: python load.py photo.jpg --clients 8 --seconds 20."""

import argparse
import statistics
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

BOUNDARY = "photo"


def body_of(photo: bytes) -> bytes:
    """Return a photo as the field `image` of a form."""
    head = (
        f"--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="image"; filename="photo"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(port: int, body: bytes, until: float, seconds: list[float]) -> None:
    """Send one request after another; add how long each took."""
    connection = HTTPConnection("127.0.0.1", port)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    while time.perf_counter() < until:
        started = time.perf_counter()
        connection.request("POST", "/predict", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content.decode()}")
        seconds.append(time.perf_counter() - started)


def measure(port: int, photo: bytes, clients: int, duration: float) -> list[float]:
    """Return the seconds of each request of some clients at once."""
    seconds: list[float] = []
    until = time.perf_counter() + duration
    arguments = (port, body_of(photo), until, seconds)
    threads = [threading.Thread(target=send, args=arguments) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("photo", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    photo = options.photo.read_bytes()
    measure(options.port, photo, options.clients, 2)
    taken = sorted(measure(options.port, photo, options.clients, options.seconds))
    last = taken[int(0.95 * len(taken))]
    print(
        f"{options.clients} clients: {len(taken) / options.seconds:.1f} requests/s, "
        f"{1e3 * statistics.median(taken):.0f} ms (median), {1e3 * last:.0f} ms (95 %)"
    )
