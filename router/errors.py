"""The errors that the router raises, each with the HTTP status and code that a client gets.

RouterError
├── RequestError            the client's mistake: a 4xx in OpenAI's error envelope
│   ├── InvalidRequest          400
│   ├── ContextLengthExceeded   400, code context_length_exceeded
│   ├── Unauthorized            401, code invalid_api_key
│   ├── UnknownModel            404, code model_not_found
│   ├── UnknownAnswer           404, code unknown_answer: feedback on an answer that the router does not know
│   ├── BodyTooLarge            413
│   ├── UnsupportedMediaType    415: the body is compressed in a way that the router does not know
│   ├── PoisonRequest           422: the prompt crashed two replicas of a model that answers other prompts
│   └── RateLimited             429, code rate_limit_exceeded: the API key is over its limits
└── ServiceError            the cluster's fault: a 5xx or 429; a later try may succeed
    ├── Overloaded              429: the queue is too long; refused before any work began
    ├── ModelUnavailable        503: the replica is gone or missed a deadline; another replica may answer
    │   ├── ModelDied               503: the replica died during the call
    │   ├── ModelStalled            504: no token within the deadline
    │   ├── AdapterMissing          503: the replica has not loaded this expert's adapter yet
    │   │   └── AdapterBroken           503: the replica cannot load the adapter
    │   └── ModelOverloaded         429: the queues of all replicas are full
    ├── ModelFailed             500: the engine raised an error that every replica would raise; never retried
    │   └── ModelBroken             503: no replica of the model can answer, whatever it is asked
    ├── TableStale              503: the router has lost the controller, so its route table may be withdrawn
    ├── WakeFailed              503: a model that was scaled to zero did not start in time
    └── DeadlineExceeded        504: the answer took longer than its total time limit

RateLimited and Overloaded share `_TooManyRequests`: both tell the client when to retry.
"""

from __future__ import annotations


class RouterError(Exception):
    """Base class of every error that the router raises on purpose.

    The attributes are those of OpenAI's error envelope, and `retry_after_s` for the `retry-after` header.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None

    @property
    def message(self) -> str:
        return str(self)

    def __str__(self) -> str:
        # Some subclasses pass more arguments, so that they survive pickling; the message comes first.
        return str(self.args[0])


class _TooManyRequests(RouterError):
    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        # Not super(): in a subclass with two bases that is RequestError or ServiceError.
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


class UnknownAnswer(RequestError):
    status = 404
    code = "unknown_answer"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_content_encoding"


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
    """`replica` is the replica that died: several reports about one replica count as one death."""

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


class ModelBroken(ModelFailed):
    status = 503
    code = "model_broken"
    retry_after_s = 10


class TableStale(ServiceError):
    status = 503
    code = "table_stale"
    retry_after_s = 10


class WakeFailed(ServiceError):
    status = 503
    code = "wake_failed"
    retry_after_s = 10


class DeadlineExceeded(ServiceError):
    status = 504
    code = "deadline_exceeded"
