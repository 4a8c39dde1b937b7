"""Every exception of this package.

    ExpertsError
    ├── InvalidCall                  the request is wrong: code, param, message
    │   ├── ContextLengthExceeded    the prompt is longer than the model's context window
    │   ├── InvalidPrompt            the chat template or the tokenizer cannot take the conversation
    │   └── UnknownAdapter           this engine has not loaded the LoRA adapter
    └── ExpertsFault                 not the client's fault: one line with what, where and the remedy
        ├── ModelLoadError           a model folder is missing or unreadable
        │   └── AdapterFailed            a LoRA adapter cannot be loaded; other adapters can
        ├── TokenError               an expert token is unreadable or malformed
        │   └── TokenMismatch        an expert token was learned for another meta
        ├── TemplateError            a chat template is missing or unsuitable
        ├── DataError                training data is malformed
        ├── EngineDead               the engine stopped and will not come back by itself
        ├── EngineFailed             the engine raised a foreign exception, which is named here
        ├── OtherRelease             a router or a replica of another release sent what this one cannot read
        └── RemoteFault              a model behind a URL cannot be used
            ├── RemoteMisconfigured      its address, name, key or kind of server is wrong
            ├── TurnNotContinued         its server cannot continue an answer that has text already
            └── RemoteUnavailable        it cannot be reached, or it failed; a retry may help
                └── RemoteBusy               it accepts no more requests at present

They cross process boundaries by pickle, which rebuilds an exception from `args`. So every class passes its
own arguments, in order, to `Exception.__init__`.
"""


class ExpertsError(Exception):
    """Base of every error raised by `experts`."""


class InvalidCall(ExpertsError):
    """The request is wrong; repeating it unchanged cannot help.

    `code` and `param` are those of OpenAI's error envelope; `param` is None if no single field is to blame.
    """

    def __init__(self, code: str, param: str | None, message: str, *own_args: object) -> None:
        # A subclass passes its own arguments as `own_args`, which rebuild it after pickling.
        super().__init__(*(own_args or (code, param, message)))
        self.code = code
        self.param = param
        self.message = message

    def __str__(self) -> str:
        return self.message


class ContextLengthExceeded(InvalidCall):
    """The prompt has `num_tokens` tokens, but the model takes at most `limit`, one less than its window.

    `num_tokens` is None if the prompt is so long that it was not counted. `limit` is None if a remote server
    refused the prompt without the number. The message begins as OpenAI's, since clients recognise it by that.
    """

    def __init__(self, num_tokens: int | None = None, limit: int | None = None) -> None:
        excess = "exceeded by the prompt"
        if num_tokens is not None and limit is not None:
            excess = f"{limit + 1} tokens. However, the prompt has {num_tokens}, and an answer needs one more"
        elif limit is not None:
            excess = f"{limit + 1} tokens. However, the prompt is longer"
        message = (
            f"This model's maximum context length is {excess}. Please reduce the length of the messages."
        )
        super().__init__("context_length_exceeded", "messages", message, num_tokens, limit)
        self.num_tokens = num_tokens
        self.limit = limit


class InvalidPrompt(InvalidCall):
    """The prompt in field `param` cannot be tokenized, for the given reason."""

    def __init__(self, param: str, reason: str) -> None:
        super().__init__("invalid_prompt", param, f"{param}: {reason}", param, reason)
        self.reason = reason


class UnknownAdapter(InvalidCall):
    """The adapter `name` is not loaded, or the engine does not support adapters."""

    def __init__(self, name: str) -> None:
        super().__init__("unknown_adapter", None, f"this engine has not loaded an adapter '{name}'", name)
        self.name = name


class ExpertsFault(ExpertsError):
    """Not the client's fault: a model, a file, a data set or an engine is to blame."""


class ModelLoadError(ExpertsFault):
    """A model or tokenizer cannot be loaded."""


class AdapterFailed(ModelLoadError):
    """The adapter that a request names cannot be loaded. The message does not have its path."""


class TokenError(ExpertsFault):
    """An expert token is missing, unreadable or malformed."""


class TokenMismatch(TokenError):
    """An expert token was learned for another meta than the one it is installed in."""


class TemplateError(ExpertsFault):
    """A model has no chat template, or one that cannot hold a conversation."""


class DataError(ExpertsFault):
    """Training data is malformed. The message has a line for each broken row, up to 20, and their number."""


class EngineDead(ExpertsFault):
    """The engine has stopped; its replica must be replaced."""


class EngineFailed(ExpertsFault):
    """An engine raised an exception of another package. The message has its type and first line, because
    other processes may be unable to rebuild it."""


class OtherRelease(ExpertsFault):
    """The message names the class or the field that this release does not know."""


class RemoteFault(ExpertsFault):
    """A remote model cannot be used. No message quotes the request or the API key."""


class RemoteMisconfigured(RemoteFault):
    """An operator must correct the `remote` block, the API key or the server."""


class TurnNotContinued(RemoteFault):
    """The server cannot continue an answer that has text already; it can only begin one."""


class RemoteUnavailable(RemoteFault):
    """The server was not reached, failed, or broke off its answer. The replica that reports it is healthy."""


class RemoteBusy(RemoteUnavailable):
    """The server refused the request because of its load, or because this API key sent too many."""
