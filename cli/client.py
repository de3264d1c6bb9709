"""The HTTP client of the command line: one server, its errors as sentences, retries with back-off."""

from __future__ import annotations

import base64
import functools
import json
import os
import random
import signal
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click
import httpx

from cli.boundary import OUR_ERROR
from cli.home import default_home

Json = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

DEFAULT_URL = "http://127.0.0.1:8000"
TERMINAL = frozenset({"done", "partial", "failed", "cancelled"})
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
TRANSIENT = {429, 502, 503, 504}
TUS = {"Tus-Resumable": "1.0.0"}
#: A large file goes in pieces of this size, each of which is acknowledged.
PIECE_BYTES = 16 << 20
#: The server's code for a piece that does not start where the bytes end that it has.
OFFSET_CONFLICT = "offset_conflict"
#: How long the server may take over an archive of gigabytes before it answers.
UNPACK_SECONDS = 1800.0

# Exit codes, stable; docs/cli.md explains them.
OK, SOME_FAILED, USAGE, UNREACHABLE, REFUSED, INTERRUPTED = range(6)


class ClientError(click.ClickException):
    """An error with an exit code of its own; click prints its sentence and ends with the code."""

    exit_code = OUR_ERROR


class UsageProblem(ClientError):
    """What was asked cannot be meant: an ambiguous id, a path that is not there."""

    exit_code = USAGE


class ServerUnreachable(ClientError):
    """No answer, for as long as the client's patience lasted."""

    exit_code = UNREACHABLE


class Untrusted(ServerUnreachable):
    """A server answers, but its certificate does not show that it is the one that was meant."""


class Damaged(ClientError):
    """What the server sent is not what it announced."""

    exit_code = UNREACHABLE


class Interrupted(ClientError):
    """Ctrl-C, SIGTERM, or the time that the person gave is over."""

    exit_code = INTERRUPTED


class Refused(ClientError):
    """The server answered, and the answer is no.

    Attributes
    ----------
    status
        The HTTP status.
    code
        The server's stable code, such as ``batch_not_draft``.
    """

    exit_code = REFUSED

    def __init__(self, status: int, code: str, sentence: str, advice: str = "") -> None:
        super().__init__(f"{sentence} {advice}".strip() + f" [{code}]")
        self.status = status
        self.code = code
        self.sentence = sentence
        self.advice = advice


def _refusal(response: httpx.Response) -> Refused:
    """Return the server's problem document as an error; other bodies give the status alone."""
    try:
        problem = response.json()
        title, detail = str(problem["title"]), str(problem.get("detail") or "")
        sentence = title if detail in {"", title} else f"{title} {detail.rstrip('.')}."
        return Refused(response.status_code, str(problem["code"]), sentence, str(problem.get("advice") or ""))
    except (ValueError, KeyError, AttributeError):
        pass
    if response.is_redirect:
        target = response.headers.get("location", "another address")
        return Refused(response.status_code, "redirected", f"The server redirects to {target}.")
    return Refused(
        response.status_code,
        f"http_{response.status_code}",
        f"The server answered {response.status_code} {response.reason_phrase}.",
        "Is FRACTUREAI_URL the address of a FractureAI server?",
    )


def find_server(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the server's address and the API key.

    They come from FRACTUREAI_URL and FRACTUREAI_API_KEY. Without a key, what `fractureai up` left for this
    machine's user in ``client.json`` is taken, and only for the address that stands there.
    """
    url = environ.get("FRACTUREAI_URL", "").rstrip("/")
    key = environ.get("FRACTUREAI_API_KEY", "")
    if not key:
        with suppress(OSError, ValueError, KeyError, RuntimeError):  # the last: a user without a home
            local = json.loads((default_home() / "client.json").read_text())
            if url in {"", local["url"].rstrip("/")}:
                return str(local["url"]).rstrip("/"), str(local["api_key"])
    return url or DEFAULT_URL, key


class Client:
    """Talks to one server's ``/api/v1``; safe to share between threads.

    Parameters
    ----------
    url, api_key
        See `find_server`.
    patience
        Seconds for which a request is tried again while the server does not answer, or answers that it is
        busy. Every request that is sent again is one that the server takes only once.
    on_wait
        Called with a sentence when a request fails and will be tried again.
    """

    def __init__(
        self, url: str, api_key: str, *, patience: float = 60.0, on_wait: Callable[[str], None] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        self.on_wait = on_wait
        self.stopped = threading.Event()
        try:
            parts = httpx.URL(self.url)
        except httpx.InvalidURL:
            parts = httpx.URL()
        if parts.scheme not in {"http", "https"} or not parts.host or (parts.port or 0) > 65535:
            raise UsageProblem(f"FRACTUREAI_URL must be an http or https address, not {url!r}.")
        try:
            # SSL_CERT_FILE and SSL_CERT_DIR count for every address,
            self._trust = httpx.create_ssl_context(trust_env=True)
            self._http = httpx.Client(
                headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                timeout=httpx.Timeout(30.0, connect=5.0),
                verify=self._trust,
                # a proxy does not: a company's knows nothing of this machine's loopback
                trust_env=parts.host not in LOOPBACK,
            )
        except UnicodeEncodeError:
            raise UsageProblem("FRACTUREAI_API_KEY is not a key: it holds letters beyond ASCII.") from None
        except ImportError as error:  # httpx speaks SOCKS with a package of its own
            raise UsageProblem(
                "ALL_PROXY or HTTPS_PROXY names a SOCKS proxy, which needs the package 'socksio': "
                "pip install socksio, or take the proxy out of the environment."
            ) from error
        except (OSError, ssl.SSLError) as error:
            raise UsageProblem(
                f"The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be used: {error}."
            ) from error
        except ValueError as error:
            raise UsageProblem(f"A proxy in the environment is none: {error}") from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # one request

    def _address(self, path: str) -> str:
        """Return the address of an API path; an address that `_link` gave stays as it is."""
        return f"{self.url}/api/v1{path}" if path.startswith("/") else path

    def _link(self, link: str) -> str:
        """Return the address of a link of the server's; it never leads to another server."""
        target, own = urlsplit(link), urlsplit(self.url)
        return f"{own.scheme}://{own.netloc}{target.path}" + (f"?{target.query}" if target.query else "")

    def _retrying(
        self, attempt: Callable[[], T], *, moved: Callable[[], int] = lambda: 0, resumes: bool = False
    ) -> T:
        """Call `attempt` until it neither loses the connection nor is told to come back later.

        Patience is spent on pauses, and on attempts to which nobody answers. A transfer that breaks off after
        an hour has not used any of it up.

        Parameters
        ----------
        moved
            Returns a number that rises while bytes pass.
        resumes
            What passed is not sent again, so that patience starts anew whenever some did.

        Raises
        ------
        ServerUnreachable
            Patience is over.
        Interrupted
            `stopped` was set.
        """
        waited, tries = 0.0, 0
        while True:
            began, before = time.monotonic(), moved()
            after = 0.0
            try:
                return attempt()
            except httpx.UnsupportedProtocol as error:
                raise UsageProblem(str(error)) from error
            except httpx.TransportError as error:
                last = self._unreachable(error)
                if isinstance(error, httpx.TimeoutException) or moved() <= before:
                    waited += time.monotonic() - began
            except _ComeBack as busy:
                last = busy.refusal
                if busy.refusal.status != 429:  # too many requests is an answer, the others are absences
                    last = ServerUnreachable(f"{self.url} is not ready: {busy.refusal.message}")
                after = busy.after
                if moved() <= before:
                    waited += time.monotonic() - began
            if resumes and moved() > before:
                waited, tries = 0.0, 0
            backoff = min(0.3 * 2**tries, 10.0) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            pause = max(backoff, after)
            waited += pause
            if waited > self.patience:
                raise last
            if tries == 1 and self.on_wait:
                self.on_wait(f"{self.url} does not answer; trying again for {self.patience:.0f} s")
            tries += 1
            if self.stopped.wait(pause):
                raise Interrupted("Interrupted.")

    def _unreachable(self, error: httpx.TransportError) -> ClientError:
        """Return why there is no connection, as a sentence. Raises `Untrusted`: trying again is no use."""
        certificate = _cause(error, ssl.SSLCertVerificationError)
        if certificate is not None:
            _learn_authorities(self._trust)
            raise Untrusted(
                f"The certificate of {self.url} is not trusted: {certificate.verify_message or certificate}. "
                "If it comes from an authority of your own, name that authority's file in SSL_CERT_FILE."
            ) from error
        if (tls := _cause(error, ssl.SSLError)) is not None:
            raise Untrusted(
                f"{self.url} does not speak TLS as it should ({tls.reason or tls}). Is it an http address?"
            ) from error
        if isinstance(error, httpx.ProxyError):
            return ServerUnreachable(
                f"The proxy on the way to {self.url} refuses: {error}. It is named in HTTP_PROXY, "
                "HTTPS_PROXY or ALL_PROXY; NO_PROXY lists addresses that need none."
            )
        return ServerUnreachable(
            f"No answer from {self.url} ({type(error).__name__}). "
            "Is it running, and is FRACTUREAI_URL right? `fractureai up` starts a local one."
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        parts: Callable[[ExitStack], Sequence[tuple[str, Any]]] | None = None,
        moved: Callable[[], int] = lambda: 0,
        read_timeout: float = 30.0,
    ) -> httpx.Response:
        """Send one request and return its good answer (2xx or 304).

        Parameters
        ----------
        parts
            Opens the multipart fields anew for each try; what it puts on the stack is closed afterwards.
        moved
            Returns a number that rises while the parts are read.

        Raises
        ------
        ServerUnreachable, Refused, Interrupted
        """

        def attempt() -> httpx.Response:
            with ExitStack() as opened:
                response = self._http.request(
                    method,
                    self._address(path),
                    json=body,
                    headers=headers,
                    files=parts(opened) if parts else None,
                    timeout=httpx.Timeout(30.0, connect=5.0, read=read_timeout),
                )
            _come_back(response)
            return response

        response = self._retrying(attempt, moved=moved)
        if not response.is_success and response.status_code != 304:
            raise _refusal(response)
        return response

    def _json(self, method: str, path: str, **arguments: Any) -> Json:
        response = self.request(method, path, **arguments)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Refused(response.status_code, "not_fractureai", f"{self.url} is not a FractureAI server.")
        return answer

    def page(self, batch: Json) -> str:
        """Return the address of a batch's page, for a browser."""
        return self._link(batch["links"]["page"])

    # batches

    def create_batch(self, options: Json, idempotency_key: str) -> Json:
        """Create a draft; the same key gives the same batch."""
        return self._json("POST", "/batches", body=options, headers={"Idempotency-Key": idempotency_key})

    def send_files(
        self,
        batch_id: str,
        parts: Callable[[ExitStack], Sequence[tuple[str, Any]]],
        moved: Callable[[], int] = lambda: 0,
    ) -> Json:
        """Send files of a draft; those that are there already are answered `duplicate`."""
        # A ZIP is unpacked and stored before the server answers.
        return self._json(
            "POST", f"/batches/{batch_id}/files", parts=parts, moved=moved, read_timeout=UNPACK_SECONDS
        )

    def send_large(self, batch_id: str, name: str, size: int, read: Callable[[int], Iterator[bytes]]) -> Json:
        """Send a large file in pieces (tus 1.0); after a break it goes on where the server's bytes end.

        Parameters
        ----------
        read
            Yields the next piece of the file, of at most `PIECE_BYTES`, from an offset.
        """
        named = base64.b64encode(name.encode()).decode()
        started = self.request(
            "POST",
            f"/batches/{batch_id}/uploads",
            headers={**TUS, "Upload-Length": str(size), "Upload-Metadata": f"filename {named}"},
        )
        address = self._link(started.headers["location"])
        offset, passed = 0, 0

        def counted(start: int) -> Iterator[bytes]:
            nonlocal passed
            for piece in read(start):
                yield piece
                passed += len(piece)

        def attempt() -> None:
            nonlocal offset
            told = self._http.head(address, headers=TUS)
            _come_back(told)
            if not told.is_success:
                raise _refusal(told)
            offset = int(told.headers["upload-offset"])
            while offset < size:
                response = self._http.patch(
                    address,
                    content=counted(offset),
                    headers={
                        **TUS,
                        "Upload-Offset": str(offset),
                        "Content-Type": "application/offset+octet-stream",
                        "Content-Length": str(min(PIECE_BYTES, size - offset)),
                    },
                )
                _come_back(response)
                if not response.is_success:
                    refused = _refusal(response)
                    # What a try that was cut had sent may arrive after the server said how much it has.
                    raise _ComeBack(refused, 0.0) if refused.code == OFFSET_CONFLICT else refused
                offset = int(response.headers["upload-offset"])

        self._retrying(attempt, moved=lambda: offset, resumes=True)
        return self._json("POST", f"{address}/take", body={}, read_timeout=UNPACK_SECONDS)

    def known_files(self, batch_id: str, hashes: Mapping[str, str | None]) -> list[Json]:
        """Return which of ``{name: sha256}`` the draft has already; None is not asked for."""
        asked = [{"filename": name, "sha256": sha} for name, sha in hashes.items() if sha]
        answer = self._json("POST", f"/batches/{batch_id}/known", body={"files": asked})
        return list(answer["files"])

    def act(self, batch_id: str, verb: str, **how: Any) -> Json:
        """Do ``submit``, ``cancel``, ``retry``, ``pause`` or ``resume``."""
        return self._json("POST", f"/batches/{batch_id}/{verb}", body=how)

    def discard(self, batch_id: str) -> bool:
        """Cancel a draft that is of no use any more; tell whether it is gone.

        A batch that somebody submitted meanwhile is left alone by the server. One short attempt: nobody waits
        for a clean-up.
        """
        self.patience = 2.0
        try:
            self.request("POST", f"/batches/{batch_id}/cancel", body={"draft_only": True}, read_timeout=3.0)
        except ClientError:
            return False
        return True

    def batch(self, batch_id: str) -> Json:
        """Return a batch."""
        return self._json("GET", f"/batches/{batch_id}")

    def batch_if_changed(self, batch_id: str, etag: str | None) -> tuple[Json | None, str | None, float]:
        """Return a batch, or None when nothing changed; its ETag; the seconds after which to ask again."""
        response = self.request(
            "GET", f"/batches/{batch_id}", headers={"If-None-Match": etag} if etag else None
        )
        pause = float(response.headers.get("x-poll-interval", 0))
        if response.status_code == 304:
            return None, etag, pause
        return response.json(), response.headers.get("etag"), pause

    def _pages(self, path: str) -> Iterator[Json]:
        following: str | None = path
        while following:
            page = self._json("GET", following)
            yield from page["items"]
            following = self._link(page["next"]) if page["next"] else None

    def batches(self) -> Iterator[Json]:
        """Yield the batches, newest first."""
        return self._pages("/batches")

    def images(self, batch_id: str, **filters: str) -> Iterator[Json]:
        """Yield a batch's images, optionally of one `status`, `triage` or `region`."""
        query = httpx.QueryParams({"limit": "200", **filters})
        return self._pages(f"/batches/{batch_id}/images?{query}")

    def bundles(self) -> list[Json]:
        """Return the model bundles that the server has."""
        answer = self.request("GET", "/bundles").json()
        items = answer["items"] if isinstance(answer, dict) else answer
        return list(items)

    def resolve(self, word: str) -> str:
        """Return the id of the batch that `word` means: an id, a unique beginning of one, or ``latest``.

        Raises
        ------
        UsageProblem
            None fits, or several do.
        """
        word = word.strip().lower()
        if len(word) == 36:
            return word
        if word == "latest":
            newest = next(self.batches(), None)
            if newest is None:
                raise UsageProblem("There is no batch yet.")
            return str(newest["id"])
        if not word.replace("-", "").isalnum():
            raise UsageProblem(f"{word!r} is not a batch id, a beginning of one, or `latest`.")
        fitting = [batch["id"] for batch in self.batches() if batch["id"].startswith(word)]
        if not fitting:
            raise UsageProblem(f"No batch begins with {word!r}; `fractureai status` lists them.")
        if len(fitting) > 1:
            raise UsageProblem(f"{len(fitting)} batches begin with {word!r}: give more of the id.")
        return str(fitting[0])

    def wait_for(
        self, batch_id: str, on_change: Callable[[Json], None], *, timeout: float | None = None
    ) -> Json:
        """Poll until the batch is terminal; slower while nothing changes, and while many watch.

        Raises
        ------
        Interrupted
            `timeout` seconds are over, or `stopped` was set; the server goes on with the batch.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        etag, pause = None, 0.25
        while True:
            batch, etag, told = self.batch_if_changed(batch_id, etag)
            if batch is None:
                pause = max(min(pause * 1.5, 5.0), told)
            else:
                on_change(batch)
                pause = max(0.5, told)
                if batch["status"] in TERMINAL:
                    return batch
            if deadline is not None:
                pause = min(pause, deadline - time.monotonic())
                if pause <= 0:
                    raise Interrupted(
                        f"Not finished within {timeout:g} s; the server goes on. "
                        f"`fractureai status {batch_id[:8]} --watch` follows it."
                    )
            if self.stopped.wait(pause):
                raise Interrupted("Interrupted.")

    # research

    def document(self, path: str, *, body: Json | None = None, method: str = "POST") -> Json:
        """Return what an address answers; with a body, what it answers to that, sent by `method`."""
        return self._json("GET" if body is None else method, path, body=body)

    def items(self, path: str) -> list[Json]:
        """Return all items of a list."""
        return list(self._pages(path))

    # bytes

    def download(
        self,
        path: str,
        target: Path,
        *,
        on_bytes: Callable[[int], None] | None = None,
        verify: Callable[[Path], None] | None = None,
    ) -> None:
        """Stream an address into a file that appears whole, verified, or not at all.

        Raises
        ------
        ServerUnreachable, Refused, Interrupted, OSError
            And what `verify` raises.
        """
        require_plain(target)
        partial = target.with_name(f".{target.name}.part")
        partial.unlink(missing_ok=True)
        done, tag = 0, ""

        def attempt() -> httpx.Response:
            nonlocal done, tag
            asked = {"Range": f"bytes={done}-", "If-Range": tag} if done and tag else {}
            with self._http.stream("GET", self._address(path), headers=asked) as response:
                if not response.is_success:
                    response.read()
                    _come_back(response)
                    raise _refusal(response)
                goes_on = response.status_code == 206
                if not goes_on:
                    done = 0
                takes_ranges = response.headers.get("accept-ranges") == "bytes"
                tag = response.headers.get("etag", "") if takes_ranges else ""
                with open(partial, "ab" if goes_on else "wb", opener=_private) as file:
                    for piece in response.iter_bytes(1 << 18):
                        if self.stopped.is_set():
                            raise Interrupted("Interrupted.")
                        file.write(piece)
                        done += len(piece)
                        if on_bytes:
                            on_bytes(done)
                    file.flush()
                    os.fsync(file.fileno())
            return response

        try:
            self._retrying(attempt, moved=lambda: done, resumes=True)
            if verify:
                verify(partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Open a file that nobody else on this machine may read: what is downloaded is patients'."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def require_plain(target: Path) -> None:
    """Refuse to replace what is no file: a device, a FIFO, a socket, a link to anywhere, a folder.

    Raises
    ------
    UsageProblem
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO"}
    kind = kinds.get(stat.S_IFMT(mode), "a device or a socket")
    raise UsageProblem(f"{target} is {kind}, not a file; nothing was written. Name a file to write.")


def _learn_authorities(trust: ssl.SSLContext) -> None:
    """Trust what SSL_CERT_FILE names now, too: a command that runs for months outlasts an authority."""
    if named := os.environ.get("SSL_CERT_FILE"):
        with suppress(OSError, ssl.SSLError):
            trust.load_verify_locations(cafile=named)


def _cause(error: BaseException, kind: type[E]) -> E | None:
    """Return the error of a kind that led to another one."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, kind):
        found = found.__cause__ or found.__context__
    return found


class _ComeBack(Exception):
    """The server is busy; `after` is the number of seconds that it asked for."""

    def __init__(self, refusal: Refused, after: float) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.after = after


def _come_back(response: httpx.Response) -> None:
    if response.status_code in TRANSIENT:
        delay = response.headers.get("retry-after", "")
        raise _ComeBack(_refusal(response), float(delay) if delay.isdigit() else 0.0)


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Make SIGTERM end the command in the way Ctrl-C does, while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def client_command(function: Callable[P, None]) -> Callable[P, None]:
    """Give a command the exit code of an interruption, and of a local file that cannot be used."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _ending_on_signals():
                function(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted.") from None
        except BrokenPipeError:  # the reader of a pipe has enough; click ends quietly
            raise
        except OSError as error:
            raise UsageProblem(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error

    return run


def open_client(*, patience: float = 60.0) -> Client:
    """Return a client of the server that the environment names; its waiting is told on standard error."""
    url, key = find_server()
    return Client(url, key, patience=patience, on_wait=lambda sentence: click.echo(sentence, err=True))
