"""One HTTP request and its response, as a request of the metrics.

Told by `asgi` and `wsgi` what goes by; what no one else has counted is counted here. Nothing in
this module may fail the user's request.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.errors import classify
from ryot_metrics.middleware.events import DONE, Events, Usage, usage_of
from ryot_metrics.middleware.outcomes import CANCELLED, SUCCESS, Outcome, outcome_of
from ryot_metrics.tracking import Scope, begin, end, finish

if TYPE_CHECKING:
    from ryot_metrics.middleware.routes import Endpoint

_UNFINISHED: Outcome = ("error", "inference_error")

_log = logging.getLogger("ryot_metrics")
_now = time.perf_counter


def _unmeasured() -> None:
    _log.warning("a part of a response was not measured", exc_info=True)


class Exchange(Scope):
    """A request from its arrival to the last byte of its response; the scope of what answers it.

    Args:
        model: The label `model`.
        endpoint: Where it goes.
        mode: `standard`, `streaming` or `batch`; None for what the response turns out to be.
        asked: What the client asked for, where mode is None.
        max_body_bytes: The largest JSON response that is looked into for its `usage`; 0 for none.
        count_events: Whether events of a stream count as tokens where nothing else counts.

    Attributes:
        hung_up: Whether the client is known to have gone.
        complete: Whether the last byte was handed to the server.
        counted: Tokens that were counted here, as events.
        failure: The exception that the app's framework answered itself, as far as it says so.
        finished: Whether it has left its sample.
    """

    # What every request begins with: an attribute of the class costs a request nothing.
    hung_up = False
    complete = False
    failure: BaseException | None = None
    _announced: int | None = None
    counted = 0
    _document: list[bytes] | None = None
    _counted_inside = False
    _events: Events | None = None
    _last = b""
    finished = False
    _http_status = 0
    _sent = 0
    _streamed = False

    def __init__(
        self,
        model: str,
        endpoint: Endpoint,
        mode: str | None,
        asked: str,
        max_body_bytes: int,
        count_events: bool,
    ) -> None:
        try:
            request = Request(model, endpoint.name, mode or asked)
        except (TypeError, UnicodeError):  # what the service's functions gave is no valid text
            request = begin(model, endpoint.name, mode or asked)
        super().__init__(request)
        self._fixed = mode is not None
        self._endpoint = endpoint
        self._max_body_bytes = max_body_bytes
        self._count_events = count_events
        self._began = _now()

    def responds(self, http_status: int, content_type: str, length: int | None) -> None:
        """The head of the response; without a length it is a stream, unless it is JSON."""
        self._http_status = http_status
        self._announced = length
        if http_status >= 400:
            return
        if content_type.startswith("text/event-stream"):
            self._events = Events()
            self._streams()
        elif content_type.startswith("application/json"):  # Django announces no length
            self._document = []
        elif length is None:
            self._streams()

    def _streams(self) -> None:
        self._streamed = True
        if not self._fixed:
            self._request.streams()

    def produces(self, chunk: bytes) -> None:
        """A piece of the body is about to be handed over."""
        try:
            before = self._sent
            self._sent = before + len(chunk)
            if self._events is not None:
                if chunk:
                    self._count(self._events, bytes(chunk), first=not before)
            elif self._document is not None:
                self._document.append(chunk)
                if max(self._sent, self._announced or 0) > self._max_body_bytes:
                    self._document = None
            elif self._streamed and not before and chunk:
                self._request.set_ttft(_now() - self._began)
        except Exception:
            _unmeasured()

    @property
    def all_sent(self) -> bool:
        """Whether the body is as long as it was announced."""
        return self._announced is not None and self._sent >= self._announced

    def resumes(self) -> None:
        """The consumer has taken its time over a piece; the next one's begins."""
        if self.counted:
            self._request.resumed()

    def completes(self) -> None:
        """The last byte was handed over; an error of the app may still explain a 5xx."""
        self.complete = True
        try:
            if self._document or self._events is not None:
                self._take_usage()
            if self._http_status < 400 and not self.hung_up:
                self._finish(SUCCESS)
            elif self._http_status < 500:
                self._finish(self._outcome(None))
        except Exception:
            _unmeasured()

    def leaves(self, error: BaseException | None) -> None:
        """The app is done with the request, by this exception if there is one."""
        if self.finished:
            return
        try:
            self._finish(self._outcome(error or self._answered()))
        except Exception:
            _unmeasured()

    def _answered(self) -> BaseException | None:
        """The exception behind a 5xx."""
        return self.failure if self._http_status >= 500 else None

    def _count(self, events: Events, chunk: bytes, *, first: bool) -> None:
        self._last = chunk
        if self._counted_inside:
            return
        if not self._count_events or self._request.token_count != self.counted:
            self._counted_inside = True
            if first:  # ignored if who counts inside has seen its first token
                self._request.set_ttft(_now() - self._began)
            return
        if tokens := events.feed(chunk):
            self._request.token()
            if tokens > 1:
                self._request.add_tokens(tokens - 1)
            self.counted += tokens

    @property
    def _done(self) -> bool:
        """Whether the stream said that nothing else comes."""
        return DONE in self._last

    def _take_usage(self) -> None:
        """What the response says of its tokens, unless something inside has counted them."""
        usage: Usage | None = None
        if self._document:
            usage = usage_of(b"".join(self._document))
        elif self._events is not None and self._max_body_bytes:
            usage = self._events.usage
        if usage is None or self._request.token_count != self.counted:
            return
        if usage.prompt_tokens is not None:
            self._request.set_prompt_tokens(usage.prompt_tokens)
        if usage.completion_tokens is not None:
            self._request.set_token_count(usage.completion_tokens)

    def _outcome(self, error: BaseException | None) -> Outcome:
        # Clients of OpenAI's protocol hang up on [DONE], before the empty last piece.
        if self.hung_up and not self._done:
            return CANCELLED
        known = self._endpoint.known_route
        if error is None and (self.complete or self._done):
            return outcome_of(self._http_status, known_route=known)
        code = getattr(error, "status_code", None)
        if isinstance(code, int) and not self._http_status:
            return outcome_of(code, known_route=known)
        status, kind = _UNFINISHED if error is None else classify(error)[:2]
        if status == "error" and self._sent and self._http_status < 400:
            status = "partial"
        return status, kind

    def _finish(self, outcome: Outcome) -> None:
        self.finished = True
        if self._document is not None:  # a task that was begun inside may live on
            self._document = None
        if self.failure is not None:
            self.failure = None
        if outcome is SUCCESS:
            finish(self._request)
        else:
            end(self._request, *outcome)
