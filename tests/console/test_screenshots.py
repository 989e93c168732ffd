"""The pictures of the page for the README and the handbook."""

import struct
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from devstack.screenshots import FOLDER, PICTURES, Picture, take
from tests.console.serving import Console

_LARGEST = 250_000


def size_of(picture: Path) -> tuple[int, int]:
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_the_pictures_are_there_and_small(picture: Picture) -> None:
    file = FOLDER / picture.name
    assert size_of(file) == (picture.width, picture.height)
    assert file.stat().st_size < _LARGEST


def test_they_can_be_made_anew(browser: Browser, with_history: Console, tmp_path: Path) -> None:
    take(browser, with_history.url, tmp_path)
    assert {file.name: size_of(file) for file in tmp_path.iterdir()} == {
        picture.name: (picture.width, picture.height) for picture in PICTURES
    }
