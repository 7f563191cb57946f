"""Stop texts are found wherever the streamed text is cut."""

import pytest

from serving.http.stops import StopFilter


@pytest.mark.parametrize("stops", [["abab"], ["aa", "b"], ["ab", "abc"], ["cc"]])
def test_stops_are_found_wherever_the_text_is_cut(stops: list[str]) -> None:
    for text in ("aabababc", "abcabc", "cacacc", "ccc"):
        ends = [text.find(stop) for stop in stops if stop in text]
        for size in (1, 2, 3, 8):
            filtered, passed = StopFilter(stops), ""
            for start in range(0, len(text), size):
                passed += filtered.add(text[start : start + size])
                if filtered.found:
                    break
            assert passed + filtered.flush() == (text[: min(ends)] if ends else text)
