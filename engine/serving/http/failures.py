"""Errors of requests: a status, and one sentence."""


class RequestError(Exception):
    """A request can't be answered.

    Attributes:
        status: Of HTTP.
        reason: A short word for the metrics.
        retry_after_s: When to try again; 0 if that is useless.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


def too_late(timeout_s: float) -> RequestError:
    return RequestError(504, "timeout", f"there was no answer within {timeout_s:g} s.")
