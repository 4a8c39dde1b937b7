"""What a replica logs, written by Serve's own handlers to a log file, without a cluster."""

from __future__ import annotations

import ast
import asyncio
import builtins
import gc
import io
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import jinja2
import pydantic
import pytest
import ray.serve.context as serve_context
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ray.exceptions import RayTaskError
from ray.serve._private import logging_utils
from ray.serve._private.common import ServeComponentType
from ray.serve.exceptions import RequestCancelledError
from ray.serve.schema import EncodingType, LoggingConfig
from starlette.requests import ClientDisconnect

import deployments
from deployments.error_text import describe, format_traceback
from deployments.logs import MAX_REMEMBERED, OWN, TRACEBACK_PERIOD_S, set_up_logs
from deployments.model import ModelServer
from deployments.replicas.wire_format import pack
from experts.engine.request import EngineRequest
from experts.errors import ContextLengthExceeded, EngineDead, EngineFailed, InvalidPrompt
from experts.prompt import PromptRenderer
from router.errors import InvalidRequest, ModelUnavailable, RateLimited, UnknownModel
from router.tracing import CURRENT_TRACE, RequestTrace, TraceContext
from tests.fakes.grpc_replica import ScriptedEngine
from tests.tiny.tokenizers import byte_level

CANARY = "CANARY-7f3a"
REQUEST_ID = "req-8b1d"
HERE = "tests/deployments/test_logs.py"
OWN_LOGGER = "router.api.sse"
LOGGERS = ("ContinuousBatchingLogger", "asyncio", "ray.serve", "jinja2", OWN_LOGGER)

HOOKS = ((threading, "excepthook"), (sys, "unraisablehook"), (sys, "stdout"), (builtins, "print"))

serve_logger = logging.getLogger("ray.serve")
logger = logging.getLogger("router.api.sse")


@dataclass
class Logs:
    """The logs of a replica: its file, what it wrote to stderr, and the clock of the traceback limit."""

    folder: Path
    stderr: io.StringIO = field(default_factory=io.StringIO)
    now: float = 1000.0

    def configure(self, encoding: EncodingType = EncodingType.TEXT, buffer_size: int = 1) -> None:
        """As Serve does when a replica starts, and again when its logging config changes."""
        _close_handlers()
        logging_utils.configure_component_logger(
            component_name="experts_Model",
            component_id="replica1",
            component_type=ServeComponentType.REPLICA,
            logging_config=LoggingConfig(logs_dir=str(self.folder), encoding=encoding),
            max_bytes=1 << 24,
            backup_count=1,
            buffer_size=buffer_size,
        )

    @property
    def text(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.rglob("*.log")))

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def everything(self) -> str:
        return self.text + self.stderr.getvalue()


@contextmanager
def replica_logs(encoding: EncodingType = EncodingType.TEXT) -> Iterator[Logs]:
    """A replica's logging in this process, whose own logging is restored afterwards."""
    with TemporaryDirectory() as folder, ExitStack() as undo:
        logs = Logs(Path(folder))
        undo.callback(setattr, serve_logger, "filters", serve_logger.filters)
        serve_logger.filters = []
        names = ["root", *OWN, *logging.root.manager.loggerDict]
        for one in [logging.getLogger(name) for name in names]:
            undo.callback(_restore, one, one.handlers[:], one.level, one.propagate)
        for place, name in HOOKS:
            undo.callback(setattr, place, name, getattr(place, name))
        serve_logger.handlers = []
        undo.callback(_close_handlers)
        undo.enter_context(redirect_stderr(logs.stderr))
        logs.configure(encoding)
        set_up_logs(lambda: logs.now)
        context = serve_context._RequestContext(request_id=REQUEST_ID)
        token = serve_context._serve_request_context.set(context)  # type: ignore[arg-type]
        undo.callback(serve_context._serve_request_context.reset, token)
        yield logs


@pytest.fixture
def logs() -> Iterator[Logs]:
    with replica_logs() as logs:
        yield logs


def _restore(one: logging.Logger, handlers: list[logging.Handler], level: int, propagate: bool) -> None:
    one.handlers, one.propagate = handlers, propagate
    one.setLevel(level)


def _close_handlers() -> None:
    for handler in serve_logger.handlers:
        target = getattr(handler, "target", None)
        handler.close()
        if target:
            target.close()


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def fail(error: BaseException) -> None:
    """As Serve logs what a replica's method raises."""
    try:
        raise error
    except BaseException:
        serve_logger.exception("Request failed.")


@pytest.mark.parametrize("name", ["router.api.sse", "deployments.model_route", "experts.engine.hf.engine"])
def test_own_messages_appear_once_in_serves_file_and_on_stderr_with_the_request_id(logs, name):
    logging.getLogger(name).info("all is %s", "well")
    assert logs.lines == [line for line in logs.lines if REQUEST_ID in line and line.endswith("all is well")]
    assert logs.text.count("all is well") == logs.stderr.getvalue().count("all is well") == 1
    assert REQUEST_ID in logs.stderr.getvalue()


def test_nothing_changes_when_serve_replaces_its_handlers(logs):
    logs.configure(EncodingType.JSON)
    logger.warning("request failed: %s", raised(KeyError(CANARY)))
    fail(ValueError(CANARY))
    first, second = map(json.loads, logs.lines)
    assert first["request_id"] == second["request_id"] == REQUEST_ID
    assert first["message"].startswith(f"request failed: KeyError at {HERE}:")
    assert "ValueError at" in second["exc_text"]
    assert CANARY not in logs.everything


def test_in_json_every_line_about_a_request_has_the_id_of_its_trace(logs):
    logs.configure(EncodingType.JSON)
    context = TraceContext.new(is_sampled=True)
    token = CURRENT_TRACE.set(RequestTrace(context))
    try:
        logger.info("one")
        fail(ValueError(CANARY))
        serve_logger.info("POST / 200 1.0ms", extra={"skip_context_filter": True, "serve_access_log": True})
    finally:
        CURRENT_TRACE.reset(token)
    logger.info("about no request")
    lines = [json.loads(line) for line in logs.lines]
    assert [line.get("trace_id") for line in lines] == [context.trace_id] * 3 + [None]


def test_in_json_fields_that_libraries_add_are_left_out(logs):
    logs.configure(EncodingType.JSON)
    logging.getLogger("transformers").warning("a %s", "b", extra={"prompt": CANARY, "error": object()})
    (line,) = map(json.loads, logs.lines)
    assert (line["message"], "prompt" in line, "error" in line) == ("a %s", False, False)
    assert CANARY not in logs.everything


def test_setting_up_twice_duplicates_nothing(logs):
    set_up_logs()
    logger.info("one line")
    assert logs.text.count("one line") == logs.stderr.getvalue().count("one line") == 1


@pytest.mark.parametrize("name", ["transformers", "ContinuousBatchingLogger"])
def test_a_librarys_info_is_not_logged_and_its_warning_is_one_line_without_arguments(logs, name):
    library = logging.getLogger(name)
    library.addHandler(logging.StreamHandler(logs.stderr))
    library.propagate = False
    set_up_logs()  # again, because a library sets up its handlers when it is imported
    library.info("nobody asked")
    library.warning("cache is small\nTraceback of %s", CANARY)
    assert [REQUEST_ID in line and line.endswith("cache is small") for line in logs.lines] == [True]
    assert logs.stderr.getvalue().count("cache is small") == 1
    assert "nobody asked" not in logs.everything
    assert CANARY not in logs.everything


def test_a_cause_has_one_traceback_a_minute_and_then_lines_with_counts(logs):
    for _ in range(4):
        fail(KeyError(CANARY))
    assert logs.text.count("Traceback") == logs.text.count("in fail\n") == 1
    assert logs.text.count("raise error\n") == 1
    told = [
        re.findall(r"\((\d+) like it left out\)", line) for line in logs.lines if "Request failed" in line
    ]
    assert told == [[], ["1"], ["2"], ["3"]]
    assert logs.text.count(f"Request failed. [KeyError at {HERE}:") == 3
    logs.now += TRACEBACK_PERIOD_S
    fail(KeyError(CANARY))
    assert logs.text.count("Traceback") == 2
    assert "Request failed. (3 like it left out)\nTraceback" in logs.text
    assert logs.text.count(REQUEST_ID) == 5


def test_another_type_place_or_origin_is_another_cause(logs):
    fail(KeyError())
    fail(ValueError())
    try:
        raise KeyError
    except KeyError:
        serve_logger.exception("Request failed.")
    for origin in (OSError(), ArithmeticError()):
        fail(raised(EngineFailed("the same"), cause=raised(origin)))
    assert logs.text.count("Request failed.") == 5
    assert "left out" not in logs.text


def test_the_whole_chain_of_causes_is_logged_first_cause_first(logs):
    cause = raised(KeyError(CANARY), cause=raised(OSError(CANARY)))
    fail(raised(EngineFailed("engine said so"), cause=cause))
    types = re.findall(r"^(OSError|KeyError|EngineFailed)\b", logs.text, re.MULTILINE)
    assert types == ["OSError", "KeyError", "EngineFailed"]
    assert "EngineFailed: engine said so" in logs.text
    assert logs.text.count("Traceback") == 3


def test_the_number_of_remembered_causes_is_bounded(logs):
    first, second, *others = [type(f"Error{i}", (Exception,), {}) for i in range(MAX_REMEMBERED + 1)]
    for kind in [first, second, *others[:-1], first, others[-1], first, second]:
        fail(kind())  # the last of the others displaces the second
    assert logs.text.count("Traceback") == MAX_REMEMBERED + 2
    assert logs.text.count("Request failed. [Error0 ") == logs.text.count("Request failed. [") == 2


def test_deep_recursion_and_endless_chains_are_cut(logs):
    def dig() -> None:
        dig_on()

    def dig_on() -> None:  # two functions in turn, because Python abbreviates a repeated frame
        dig()

    with pytest.raises(RecursionError) as caught:
        dig()
    fail(caught.value)
    one, two = raised(KeyError(CANARY)), raised(ValueError(CANARY))
    one.__cause__, two.__cause__ = two, one
    fail(one)
    error: BaseException = raised(ValueError(CANARY))
    for _ in range(200):
        error = raised(ValueError(CANARY), cause=error)
    fail(error)
    assert len(logs.lines) < 200
    assert CANARY not in logs.everything


REMOTE = RayTaskError("generate", f"Traceback\nInvalidPrompt: {CANARY}", InvalidPrompt("messages", CANARY))


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (InvalidPrompt("messages", f"refuses them: {CANARY}"), "InvalidPrompt (invalid_prompt)"),
        (ContextLengthExceeded(9, 8), "ContextLengthExceeded (context_length_exceeded)"),
        (InvalidRequest(f"bad JSON: {CANARY}", "body"), "InvalidRequest (None)"),
        (UnknownModel(f"model '{CANARY}' does not exist", "model"), "UnknownModel (model_not_found)"),
        (RateLimited(CANARY, 3), "RateLimited (rate_limit_exceeded)"),
        (REMOTE, "InvalidPrompt (invalid_prompt)"),
        (REMOTE.as_instanceof_cause(), "InvalidPrompt (invalid_prompt)"),
        (asyncio.CancelledError(CANARY), "CancelledError"),
        (RequestCancelledError(CANARY), "RequestCancelledError"),
        (ClientDisconnect(CANARY), "ClientDisconnect"),
        (GeneratorExit(CANARY), "GeneratorExit"),
    ],
)
def test_an_invalid_request_or_a_disconnect_is_one_line_a_minute(logs, mistake, told):
    for _ in range(3):
        fail(mistake)
    (line,) = logs.lines
    assert line.startswith("INFO ")
    assert REQUEST_ID in line
    assert f"Request failed. [{told} at {HERE}:" in line
    logs.now += TRACEBACK_PERIOD_S
    fail(mistake)
    assert logs.lines[1].endswith("(2 like it left out)")
    assert len(logs.lines) == 2
    assert CANARY not in logs.everything
    assert "Traceback" not in logs.everything


def test_own_faults_are_logged_with_their_messages(logs):
    logger.warning("request %s failed: %s", REQUEST_ID, ModelUnavailable("chem is not available"))
    remote = RayTaskError("f", CANARY, EngineDead("meta: the loop has stopped"))
    logger.warning("chem failed: %s", remote.as_instanceof_cause())
    assert logs.lines[0].endswith(f"request {REQUEST_ID} failed: ModelUnavailable: chem is not available")
    assert logs.lines[1].endswith("chem failed: EngineDead: meta: the loop has stopped")


def kinds_of_error(text: str) -> list[BaseException]:
    """Exceptions that hold `text` in all the ways that exceptions can."""
    noted = ValueError()
    noted.add_note(text)
    from_it = RuntimeError()
    from_it.__cause__ = raised(KeyError(text))
    amid_it, hiding_it = RuntimeError(), RuntimeError()
    amid_it.__context__ = hiding_it.__context__ = raised(KeyError(text))
    hiding_it.__suppress_context__ = True
    inner = ExceptionGroup("inner", [OSError(2, text, text)])
    group = BaseExceptionGroup(text, [raised(KeyError(text)), inner])
    remote = RayTaskError("f", f"Traceback:\n{text}", ValueError(text))
    errors: list[BaseException] = [
        KeyError(text),
        ValueError(f"cannot encode {text!r}"),
        RuntimeError("first line", text),
        UnicodeDecodeError("utf-8", text.encode("utf-8", "replace") + b"\xff", 0, 1, text),
        json.JSONDecodeError("Expecting value", text, 0),
        jinja2.TemplateRuntimeError(text),
        SyntaxError(text, (text, 1, 1, text)),
        AssertionError(text),
        noted,
        from_it,
        amid_it,
        hiding_it,
        group,
        BaseExceptionGroup(text, [asyncio.CancelledError(text)]),
        remote,
        remote.as_instanceof_cause(),
        InvalidPrompt("messages", text),
        InvalidRequest(text),
        EngineFailed(describe(raised(KeyError(text)))),
        type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})(text),
    ]
    with pytest.raises(pydantic.ValidationError) as invalid:
        pydantic.TypeAdapter(int).validate_python(text)
    return [*errors, invalid.value]


def in_the_message(log: logging.Logger, error: BaseException) -> None:
    try:
        raise error
    except BaseException as caught:
        with suppress(ZeroDivisionError):
            log.error(f"it failed: {caught}")
        with suppress(ZeroDivisionError):
            log.error(f"it failed: {caught!r}", exc_info=True)


def with_the_traceback_as_text(log: logging.Logger, error: BaseException) -> None:
    try:
        raise error
    except BaseException:
        log.error("it failed\n" + traceback.format_exc())
        log.error(traceback.format_exc())


WAYS: dict[str, Callable[[logging.Logger, BaseException], None]] = {
    "as exc_info": lambda log, error: log.error("it failed", exc_info=raised(error)),
    "as an argument": lambda log, error: log.warning("it failed: %s", error),
    "as a raised argument": lambda log, error: log.warning("it failed: %r", raised(error)),
    "as the message": lambda log, error: log.warning(error),
    "as a named argument": lambda log, error: log.warning("it failed: %(why)s", {"why": error}),
    "in a list": lambda log, error: log.warning("they failed: %s", [error, (error, {1: error})]),
    "with too many arguments": lambda log, error: log.warning("it failed", error, error.args),
    "in the message": in_the_message,
    "as text": with_the_traceback_as_text,
}


# Our own code never formats an exception into a message; `test_own_code_passes_exceptions_as_arguments_…`.
OF_OTHERS_ONLY = ("in the message", "as text")


def loggers(way: str) -> tuple[str, ...]:
    return tuple(name for name in LOGGERS if name != OWN_LOGGER or way not in OF_OTHERS_ONLY)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoding", list(EncodingType))
def test_no_way_of_logging_an_exception_reveals_a_prompt(way, encoding):
    with replica_logs(encoding) as logs:
        for name in loggers(way):
            for error in kinds_of_error(CANARY):
                try:
                    WAYS[way](logging.getLogger(name), error)
                finally:
                    logs.now += TRACEBACK_PERIOD_S
        assert len(logs.lines) >= len(loggers(way)) * len(kinds_of_error(CANARY))
        assert all(REQUEST_ID in line for line in logs.lines if encoding is EncodingType.JSON)
        assert HERE in logs.text or "as" in way or "in a list" in way
        assert CANARY not in logs.everything


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r'\"\\%{}\u2028"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    before=TEXTS,
    after=TEXTS,
    index=st.integers(0, 20),
    outer=st.none() | st.integers(0, 20),
    way=st.sampled_from(sorted(WAYS)),
    name=st.sampled_from(LOGGERS),
)
def test_no_chain_of_exceptions_reveals_a_prompt(
    before: str, after: str, index: int, outer: int | None, way: str, name: str
):
    errors = kinds_of_error(before + CANARY + after)
    error = errors[index % len(errors)]
    if outer is not None:
        error = raised(kinds_of_error(after + CANARY)[outer % len(errors)], cause=error)
    assume(name in loggers(way))
    with replica_logs() as logs:
        WAYS[way](logging.getLogger(name), error)
        assert logs.lines
        assert CANARY not in logs.everything
        assert CANARY not in format_traceback(raised(error)) + describe(error)


async def test_an_unawaited_task_is_logged_without_the_message_of_its_exception(logs):
    async def lost(prompt: str) -> None:
        raise KeyError(prompt)

    def called(prompt: str) -> None:
        raise OSError("outside")

    task = asyncio.create_task(lost(CANARY), name="reader")
    await asyncio.wait({task})
    logger.warning("left behind: %s", task)
    logging.getLogger("asyncio").warning("left behind: %r", [task])
    del task
    gc.collect()
    asyncio.get_running_loop().call_soon(called, CANARY)
    await asyncio.sleep(0)
    assert f"KeyError at {HERE}:" in logs.text
    assert "in lost" in logs.text
    assert "in called" in logs.text  # asyncio would log its arguments
    assert CANARY not in logs.everything


def test_failing_threads_and_destructors_are_logged_without_messages(logs):
    class Stuck:
        def __del__(self) -> None:
            raise ValueError(CANARY)

    def work(prompt: str) -> None:
        raise KeyError(prompt)

    for thread in (threading.Thread(target=work, args=(CANARY,)), threading.Thread(target=sys.exit)):
        thread.start()
        thread.join()
    del thread
    Stuck()
    gc.collect()
    assert "in work" in logs.text
    assert "in __del__" in logs.text
    assert logs.text.count("unhandled exception") == 2
    assert CANARY not in logs.everything


def test_printed_tracebacks_have_no_messages_and_warnings_are_flushed(logs, monkeypatch):
    """In Serve's throughput mode, which redirects stdout and stderr into the log and buffers lines."""
    monkeypatch.setattr(logging_utils, "RAY_SERVE_LOG_TO_STDERR", False)
    logs.configure(buffer_size=1000)
    try:
        raise KeyError(CANARY)
    except KeyError:
        traceback.print_exc()
    print("a library says hello")
    logger.info("all is well")
    assert not logs.text
    logger.warning("the last words")
    assert "a library says hello" in logs.text
    assert "in test_printed_tracebacks" in logs.text
    assert logs.text.count("all is well") == logs.text.count("the last words") == 1
    assert CANARY not in logs.everything


def test_a_template_that_quotes_the_prompt_tells_only_the_caller(logs):
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ raise_exception('I refuse ' + messages[0].content) }}"
    with pytest.raises(InvalidPrompt, match=CANARY) as caught:
        PromptRenderer(tokenizer).chat([{"role": "user", "content": CANARY}])
    fail(caught.value)
    assert "[InvalidPrompt (invalid_prompt) at " in logs.text
    assert CANARY not in logs.everything


async def test_an_engines_exception_is_logged_by_type_and_place_and_its_frames_once(logs):
    call = EngineRequest(request_id="r", text=CANARY)
    for _ in range(2):
        with pytest.raises(EngineFailed) as caught:
            await anext(ModelServer(ScriptedEngine([KeyError(CANARY)])).generate(pack(call)))
        fail(caught.value)
        assert re.fullmatch(r"KeyError at tests/fakes/grpc_replica\.py:\d+", str(caught.value))
    assert logs.text.count("in generate\n") == 3  # the engine's, and twice the server's
    assert "Request failed. [EngineFailed: KeyError at tests/fakes/grpc_replica.py:" in logs.text
    assert CANARY not in logs.everything


def test_own_messages_are_logged_whole_while_an_exception_is_handled(logs):
    """One was left out if it contained any argument of the exception, here the name of an adapter."""
    try:
        raise KeyError("contracts")
    except KeyError:
        logger.warning("adapter '%s' cannot be loaded", "contracts")
    assert logs.text.endswith("adapter 'contracts' cannot be loaded\n")


def test_own_code_passes_exceptions_as_arguments_and_never_inside_a_message():
    """The log filter trusts that: every message is a literal, and no argument is made from an exception."""
    root = Path(deployments.__file__).parent.parent
    calls = [
        node
        for package in OWN
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")
    ]
    assert len(calls) > 5
    for call in calls:
        message, *arguments = call.args
        assert isinstance(message, ast.Constant), ast.unparse(call)
        for argument in arguments:
            assert isinstance(argument, ast.Name | ast.Attribute | ast.Constant | ast.Call), ast.unparse(call)
            called = ast.unparse(argument.func) if isinstance(argument, ast.Call) else ""
            assert called in ("", "len"), ast.unparse(call)


def test_other_lines_stay_as_they_are(logs):
    serve_logger.info("POST / 200 3.1ms", extra={"serve_access_log": True})
    logger.info("%d%% of %s", 7, {"a": [1]})
    try:
        raise KeyError("a")  # its text, with the quotes, is not in the message
    except KeyError:
        serve_logger.info("CALL generate ERROR 2.0ms")
    ends = ["POST / 200 3.1ms", "7% of {'a': [1]}", "CALL generate ERROR 2.0ms"]
    assert [line.partition(" -- ")[2] for line in logs.lines] == ends


@pytest.mark.parametrize("argument", [object(), 3, None])
def test_a_line_that_cannot_be_formatted_does_not_show_its_arguments(logs, argument):
    logger.info("%d and %d", argument, CANARY)
    assert f"(a message of router.api.sse at {HERE}:" in logs.text
    assert CANARY not in logs.everything
