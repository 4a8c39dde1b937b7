"""What can go wrong in the router.

RouterError
├── RequestError            the caller's mistake: a 4xx in the OpenAI envelope
│   ├── InvalidRequest          400
│   ├── ContextLengthExceeded   400, code context_length_exceeded
│   ├── Unauthorized            401, code invalid_api_key
│   ├── UnknownModel            404, code model_not_found
│   ├── BodyTooLarge            413
│   ├── PoisonRequest           422: it took two replicas of a model down
│   └── RateLimited             429, code rate_limit_exceeded: this key asks too much
└── ServiceError            ours: a 5xx or 429, worth another try
    ├── Overloaded              429: too much is waiting already; refused before anything began
    ├── ModelUnavailable        503: the replica is away or missed a deadline; another may answer
    │   ├── ModelDied               503: the replica went away with the call in its hands
    │   ├── ModelStalled            504: no token within its deadline
    │   ├── AdapterMissing          503: the replica serves the application's other models, not this one yet
    │   │   └── AdapterBroken           503: nor will it, for it cannot load its adapter
    │   └── ModelOverloaded         429: every queue is full
    ├── ModelFailed             500: the engine's own exception, the same everywhere; never retried
    ├── WakeFailed              503: scaled to zero, and it did not start; what waited has waited long enough
    └── DeadlineExceeded        504: the answer's total time is up

RateLimited and Overloaded are made alike, by `_TooManyRequests`: each says when to come again.
"""

from __future__ import annotations


class RouterError(Exception):
    """Everything the router raises on purpose; carries what the OpenAI error envelope needs."""

    status = 500
    type = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None

    @property
    def message(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """The message alone, whatever else an error is made from."""
        return str(self.args[0])


class _TooManyRequests(RouterError):
    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        # Not what stands next in the order of the bases, for that is another one below each of both.
        Exception.__init__(self, message, retry_after_s)
        self.retry_after_s = retry_after_s


class RequestError(RouterError):
    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.param = param
        self.code = code or self.code


class InvalidRequest(RequestError):
    pass


class ContextLengthExceeded(RequestError):
    code = "context_length_exceeded"


class Unauthorized(RequestError):
    status = 401
    code = "invalid_api_key"


class UnknownModel(RequestError):
    status = 404
    code = "model_not_found"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class PoisonRequest(RequestError):
    status = 422
    code = "poison_request"


class RateLimited(_TooManyRequests, RequestError):
    code = "rate_limit_exceeded"


class ServiceError(RouterError):
    pass


class Overloaded(_TooManyRequests, ServiceError):
    code = "overloaded"


class ModelUnavailable(ServiceError):
    status = 503
    code = "model_unavailable"
    retry_after_s = 1


class ModelDied(ModelUnavailable):
    """`replica` is the one that died: two deaths of one replica are one death."""

    def __init__(self, message: str, replica: str) -> None:
        super().__init__(message, replica)
        self.replica = replica


class ModelStalled(ModelUnavailable):
    status = 504
    code = "model_stalled"


class AdapterMissing(ModelUnavailable):
    pass


class AdapterBroken(AdapterMissing):
    pass


class ModelOverloaded(ModelUnavailable):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class ModelFailed(ServiceError):
    code = "model_failed"


class WakeFailed(ServiceError):
    status = 503
    code = "wake_failed"
    retry_after_s = 10


class DeadlineExceeded(ServiceError):
    status = 504
    code = "deadline_exceeded"
