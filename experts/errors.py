"""Every exception of this package.

    ExpertsError
    ├── InvalidCall                  the caller's mistake: code, param, message
    │   ├── ContextLengthExceeded    prompt longer than the model's window
    │   ├── InvalidPrompt            a conversation the chat template or tokenizer cannot take
    │   └── UnknownAdapter           a LoRA adapter that this engine has not loaded
    └── ExpertsFault                 ours, or the operator's: one line naming what, where and the remedy
        ├── ModelLoadError           model folder missing or unreadable
        │   └── AdapterFailed            a LoRA adapter that should be there cannot be loaded; others can
        ├── TokenError               expert token unreadable or malformed
        │   └── TokenMismatch        expert token learned against another meta
        ├── TemplateError            chat template missing or unfit
        ├── DataError                training data broken
        ├── EngineDead               the engine stopped and will not come back by itself
        ├── EngineFailed             the engine raised an exception of its own, named here
        └── RemoteFault              a model behind a URL, or the way to it
            ├── RemoteMisconfigured      its address, name or key is wrong, or its server no such server
            ├── TurnNotContinued         the turn has text already, and its server only begins turns
            └── RemoteUnavailable        not reached, or it failed; another try may do
                └── RemoteBusy               it takes no more calls at present

They cross process boundaries by pickle, which rebuilds an exception from `args`: so every class hands
its own arguments, positionally, to `Exception.__init__`.
"""


class ExpertsError(Exception):
    """Base of every error raised by `experts`."""


class InvalidCall(ExpertsError):
    """The call itself is wrong; repeating it unchanged cannot help.

    `code` and `param` follow the OpenAI error envelope; `param` is None when no single field is to blame.
    """

    def __init__(self, code: str, param: str | None, message: str, *own_args: object) -> None:
        # A subclass passes its own arguments in `own_args`: they, not ours, rebuild it after pickling.
        super().__init__(*(own_args or (code, param, message)))
        self.code = code
        self.param = param
        self.message = message

    def __str__(self) -> str:
        return self.message


class ContextLengthExceeded(InvalidCall):
    """The prompt has `num_tokens` tokens; the model's window takes at most `limit` of them.

    Both are None where only the server of a model behind a URL has counted.
    """

    def __init__(self, num_tokens: int | None = None, limit: int | None = None) -> None:
        excess = "is longer than this model takes"
        if num_tokens is not None:
            excess = f"has {num_tokens} tokens but this model takes at most {limit}"
        message = f"the prompt {excess}; shorten the messages"
        super().__init__("context_length_exceeded", "messages", message, num_tokens, limit)
        self.num_tokens = num_tokens
        self.limit = limit


class InvalidPrompt(InvalidCall):
    """The prompt in field `param` cannot be turned into tokens, for the given reason."""

    def __init__(self, param: str, reason: str) -> None:
        super().__init__("invalid_prompt", param, f"{param}: {reason}", param, reason)
        self.reason = reason


class UnknownAdapter(InvalidCall):
    """The adapter `name` is not loaded, or the engine loads none."""

    def __init__(self, name: str) -> None:
        super().__init__("unknown_adapter", None, f"no adapter '{name}' is loaded in this engine", name)
        self.name = name


class ExpertsFault(ExpertsError):
    """Not the caller's doing: a model, an artefact, a data set or an engine is at fault."""


class ModelLoadError(ExpertsFault):
    """A model or tokenizer could not be loaded."""


class AdapterFailed(ModelLoadError):
    """An adapter that a call names could not be loaded. Where its files lie is not said."""


class TokenError(ExpertsFault):
    """An expert token is missing, unreadable or malformed."""


class TokenMismatch(TokenError):
    """An expert token was learned against a meta other than the one it is installed in."""


class TemplateError(ExpertsFault):
    """A model has no chat template, or one that cannot hold a conversation."""


class DataError(ExpertsFault):
    """Training data is broken: the message lists the first line numbers and how many there are."""


class EngineDead(ExpertsFault):
    """The engine's worker has stopped; its replica must be replaced."""


class EngineFailed(ExpertsFault):
    """What an engine raised that is none of these: its type and first line, for any process to rebuild."""


class RemoteFault(ExpertsFault):
    """A model that others serve cannot be used; no message quotes what was asked, or a key."""


class RemoteMisconfigured(RemoteFault):
    """An operator has to correct the `remote` block, the key, or the server."""


class TurnNotContinued(RemoteFault):
    """Its server cannot go on where another model stopped writing, only answer from the beginning."""


class RemoteUnavailable(RemoteFault):
    """The server was not reached, failed or broke off. The replica that says so is well."""


class RemoteBusy(RemoteUnavailable):
    """The server turned the call away for its load, or for how much this key has asked."""
