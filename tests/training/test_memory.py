"""Retained heap memory."""

from training import memory


def test_the_heap_is_retained_if_the_c_library_supports_it(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, parameter, value):
            calls.append((parameter, value))
            return 1

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library())
    assert memory.retain_heap() and calls == [(-4, 0), (-1, 2**31 - 1), (-8, 1)]
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.retain_heap()
