"""Values that the users on one event loop share by key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_rtisms.api.aio import SharedByKey
from tests import virtual_time


def make(shared: SharedByKey[Any], key: str = "a") -> Any:
    return shared.use(key, object)


def test_users_of_equal_keys_share_a_value_until_the_last_one_leaves() -> None:
    async def main() -> None:
        shared: SharedByKey[Any] = SharedByKey()
        with make(shared) as first:
            assert first.users == 1
            with make(shared) as second, make(shared, "b") as other:
                assert second is first
                assert other.value is not first.value
                assert (first.users, other.users) == (2, 1)
            assert first.users == 1
        assert first.users == 0
        with make(shared) as later:
            assert later.value is not first.value
            assert later.users == 1

    virtual_time.run(main())


def test_a_user_that_fails_leaves_too() -> None:
    async def main() -> None:
        shared: SharedByKey[Any] = SharedByKey()
        with pytest.raises(KeyError), make(shared) as first:
            raise KeyError
        assert first.users == 0
        with make(shared) as later:
            assert later is not first

    virtual_time.run(main())


def test_another_loop_has_a_value_of_its_own() -> None:
    shared: SharedByKey[Any] = SharedByKey()

    async def inner() -> Any:
        with make(shared) as entry:
            return entry.value

    async def main() -> None:
        with make(shared) as entry:
            assert await asyncio.to_thread(asyncio.run, inner()) is not entry.value

    asyncio.run(main())
