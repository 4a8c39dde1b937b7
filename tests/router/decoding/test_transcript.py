"""What the client sees of a text that arrives in chunks from several models."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decoding.delta import Delta, TextDelta
from router.decoding.transcript import Span, StopRule, Transcript
from router.model_port import ModelChunk, Resumed

# Two letters, so that stop strings often begin, break off, overlap and contain each other.
TEXTS = st.text("a🧪", max_size=24)
STOPS = st.lists(st.text("a🧪", min_size=1, max_size=4), max_size=3)
PIECES = st.lists(
    st.tuples(st.sampled_from(["meta", "chem", "law"]), st.text("a🧪", max_size=5)), max_size=12
)


def stopped_by(stops: list[str]) -> Transcript:
    return Transcript(StopRule(tuple(stops)))


def pairs(deltas: Iterable[Delta]) -> list[tuple[str, str]]:
    """(model, text) of each delta."""
    texts = [delta for delta in deltas if isinstance(delta, TextDelta)]
    return [(delta.model, delta.text) for delta in texts]


def write(transcript: Transcript, pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Write every piece as its author, until a stop string; returns everything that became visible."""
    shown: list[tuple[str, str]] = []
    for model, text in pieces:
        transcript.begin(model)
        shown += pairs(transcript.add(ModelChunk(text, num_tokens=1)))
        if transcript.stopped:
            break
    return shown


def before_first_stop(text: str, stops: list[str]) -> str:
    """The definition, letter by letter: the stop string that ends first counts; of several, the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return text


def joined(shown: list[tuple[str, str]]) -> str:
    return "".join(text for _, text in shown)


def test_text_without_stop_strings_is_visible_at_once():
    transcript = Transcript()
    assert write(transcript, [("meta", "né"), ("chem", "🧪")]) == [("meta", "né"), ("chem", "🧪")]
    assert pairs(transcript.close()) == []


@pytest.mark.parametrize(
    "pieces", [["END"], ["E", "ND"], ["EN", "D"], ["E", "N", "D"], ["xE", "NDx"], ["x", "ENDxEND"]]
)
def test_a_stop_string_across_several_authors_is_found(pieces: list[str]):
    transcript = stopped_by(["END"])
    shown = write(transcript, [(f"model-{at}", text) for at, text in enumerate(pieces)])
    assert transcript.stopped
    assert joined(shown + pairs(transcript.close())) == ("x" if "x" in pieces[0] else "")


def test_a_beginning_that_breaks_off_is_shown_as_its_own_author_s():
    transcript = stopped_by(["<end>"])
    assert write(transcript, [("meta", "a<e")]) == [("meta", "a")]
    assert write(transcript, [("chem", "n!")]) == [("meta", "<e"), ("chem", "n!")]
    assert [(span.model, span.text) for span in transcript.spans()] == [("meta", "a<e"), ("chem", "n!")]


def test_a_beginning_still_held_back_is_shown_when_the_answer_is_over():
    transcript = stopped_by(["<end>"])
    assert write(transcript, [("meta", "a<en")]) == [("meta", "a")]
    assert pairs(transcript.close()) == [("meta", "<en")]
    assert pairs(transcript.close()) == []


def test_a_stop_string_of_many_bytes_is_not_split():
    transcript = stopped_by(["🧪🧪"])
    assert write(transcript, [("meta", "a🧪"), ("chem", "b🧪"), ("meta", "🧪c")]) == [
        ("meta", "a"),
        ("meta", "🧪"),
        ("chem", "b"),
    ]
    assert pairs(transcript.close()) == []


@pytest.mark.parametrize("pieces", [["xabcy"], ["x", "a", "b", "c"]])
def test_of_two_stop_strings_the_one_that_ends_first_counts(pieces: list[str]):
    assert joined(write(stopped_by(["abc", "b"]), [("meta", text) for text in pieces])) == "xa"


def test_an_empty_stop_string_has_no_effect():
    assert joined(write(stopped_by([""]), [("meta", "abc")])) == "abc"


def test_spans_have_tokens_and_probability_and_leave_out_authors_without_text():
    transcript = Transcript()
    transcript.begin("meta")
    transcript.begin("law", 0.6)
    transcript.begin("chem", 0.9)
    transcript.add(ModelChunk("H2", 2))
    transcript.add(ModelChunk("O", 1))
    assert transcript.spans() == [Span("chem", "H2O", 3, 0.9)]
    assert transcript.num_tokens == 3


@given(PIECES, STOPS)
def test_the_client_sees_exactly_the_text_before_the_first_stop_string(
    pieces: list[tuple[str, str]], stops: list[str]
):
    transcript = stopped_by(stops)
    shown = write(transcript, pieces)
    shown += pairs(transcript.close())
    expected = before_first_stop(joined(pieces), stops)
    assert joined(shown) == expected
    assert "".join(span.text for span in transcript.spans()) == expected
    assert transcript.stopped == (expected != joined(pieces))


@given(PIECES, STOPS)
def test_every_letter_is_shown_as_its_author_s(pieces: list[tuple[str, str]], stops: list[str]):
    transcript = stopped_by(stops)
    shown = write(transcript, pieces)
    shown += pairs(transcript.close())
    authors = [model for model, text in pieces for _ in text]
    assert [model for model, text in shown for _ in text] == authors[: transcript.num_visible]
    assert [span.model for span in transcript.spans() for _ in span.text] == authors[: transcript.num_visible]


@given(PIECES, STOPS)
def test_only_the_beginning_of_a_stop_string_is_held_back(pieces: list[tuple[str, str]], stops: list[str]):
    transcript = stopped_by(stops)
    for model, text in pieces:
        write(transcript, [(model, text)])
        if transcript.stopped:
            break
        hidden = transcript.text[transcript.num_visible :]
        assert not hidden or any(stop.startswith(hidden) and stop != hidden for stop in stops)


@given(TEXTS, STOPS, st.lists(st.integers(0, 24)))
def test_the_visible_text_does_not_depend_on_the_chunks(text: str, stops: list[str], cuts: list[int]):
    bounds = [0, *sorted(cuts), len(text)]
    cut = [("meta", text[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]
    whole, parts = stopped_by(stops), stopped_by(stops)
    in_one = joined(write(whole, [("meta", text)]) + pairs(whole.close()))
    in_parts = joined(write(parts, cut) + pairs(parts.close()))
    assert (in_parts, parts.stopped) == (in_one, whole.stopped)


def chunk(text: str, *ids: int, tokenizer: str | None = None) -> ModelChunk:
    return ModelChunk(text, len(ids), ids=ids, tokenizer=tokenizer)


def test_a_model_goes_on_with_its_own_tokens_if_the_expert_between_wrote_nothing():
    transcript = Transcript()
    transcript.begin("meta")
    list(transcript.add(chunk("Let me", 1, 2, tokenizer="t")))
    transcript.begin("chem", 0.9)
    transcript.begin("meta")
    assert transcript.split() == ("", Resumed("Let me", (1, 2), "t"))
    list(transcript.add(chunk(" see", 3, tokenizer="t")))
    assert transcript.split() == ("", Resumed("Let me see", (1, 2, 3), "t"))


def test_text_before_another_writer_is_not_the_models_own():
    transcript = Transcript()
    for model, text, token_id in (("meta", "a", 1), ("chem", "b", 2), ("meta", "c", 3)):
        transcript.begin(model)
        assert transcript.split() == (transcript.text, None)
        list(transcript.add(chunk(text, token_id, tokenizer="t")))
    assert transcript.split() == ("ab", Resumed("c", (3,), "t"))


def test_tokens_of_two_tokenizers_are_not_joined():
    transcript = Transcript()
    for tokenizer in ("t", "u"):
        transcript.begin("meta")
        list(transcript.add(chunk("a", 1, tokenizer=tokenizer)))
    assert transcript.split() == ("aa", None)
